"""What this CPU can do, as Linux tells."""

from pathlib import Path

# Either of them makes bf16 faster than fp32; without one, oneDNN computes it by way of fp32.
_BF16 = {"avx512_bf16", "amx_bf16"}


def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has instructions that multiply bf16."""
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, flags = line.partition(":")
        if name.strip() == "flags":
            return bool(_BF16 & set(flags.split()))
    return False
