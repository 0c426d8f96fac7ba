"""Rules about programs and packages that help an intruder and not the server, in any layer, by name."""

import re
from collections.abc import Iterator

from pipeline.audit.contents import Contents, Placed

_ELF = b"\x7fELF"


def _named(names: str) -> re.Pattern[str]:
    """Matches any of the words in `names`, where `*` is letters and dashes.

    They also match as compilers and interpreters are installed: `x86_64-linux-gnu-NAME`, `NAME-14`, `NAME3.13`.
    """
    words = "|".join(re.escape(word).replace(r"\*", "[a-z-]+") for word in names.split())
    return re.compile(rf"(?:\w+-(?:\w+-)?linux-\w+-)?(?:{words})(?:-?\d{{1,2}}(?:\.\d+)*)?(?:-\w+-linux-\w+)?")


SHELLS = _named(
    "sh ash bash bash-static rbash csh dash fish ksh ksh2020 mksh posh pwsh sash tcsh yash zsh zsh-static busybox "
    "busybox.static toybox"
)
_INTERPRETERS = _named(
    "awk gawk mawk nawk original-awk bun deno ed emacs ex expect gdb guile irb lua luajit nano node nodejs nvim perl "
    "php ruby Rscript tclsh vi vim vim.basic vim.tiny wish"
)
_PACKAGE_MANAGERS = _named(
    "apk apt apt-* aptitude brew cargo conda corepack debconf dnf dpkg dpkg-* flatpak gem mamba microdnf micromamba "
    "nix nix-* npm npx opkg pacman pnpm rpm rpm2archive rpm2cpio snap tdnf yarn yum zypper"
)
_PIP = _named("easy_install hatch pdm pip pipenv pipx poetry uv uvx")
_COMPILERS = _named(
    "as c++ c89 c89-gcc c99 c99-gcc cc cc1 cc1plus cicc clang clang++ clang-cpp cmake collect2 cpp cudafe++ f951 "
    "fatbinary g++ gas gcc gcc-ar gcc-nm gfortran ghc gmake go gold javac ld ld.bfd ld.gold ld.lld ld.mold lld lto1 "
    "make meson mold nasm ninja nvcc nvlink ptxas rustc tcc yasm"
)
_SSH = _named("dbclient dropbear dropbear* scp sftp sftp-server slogin ssh ssh-* sshd sshd-*")
_JUPYTER = _named("ipykernel ipython jupyter jupyter-*")

# The folder of a Python package, its metadata, or the lone file that it is.
_PIP_PACKAGES = re.compile(
    r"(.*/(?:pip|ensurepip|uv|pipx|pipenv|poetry)/)__(?:init|main)__\.py"
    r"|(.*/(?:pip|uv|pipx|pipenv|poetry)-[\w.!+]+\.(?:dist|egg)-info/).*"
    r"|(.*/(?:easy_install\.py|(?:get-)?pip\.pyz?|[^/]+\.whl))"
)
_JUPYTER_PACKAGES = re.compile(r"(.*/(?:jupyter\w*|notebook|nbclassic|ipykernel|IPython)/)__init__\.py")


def shell(contents: Contents) -> Iterator[tuple[str, str]]:
    """A shell, by the name of the file or link."""
    yield from _programs(contents, SHELLS, "A shell runs whatever an intruder types or injects.")


def interpreter(contents: Contents) -> Iterator[tuple[str, str]]:
    """A script interpreter or an editor that can start programs. Python is the server's own and is not meant."""
    yield from _programs(contents, _INTERPRETERS, "It can start programs as a shell does, and the server needs none.")


def package_manager(contents: Contents) -> Iterator[tuple[str, str]]:
    """A package manager of a distribution or a language other than Python."""
    yield from _programs(contents, _PACKAGE_MANAGERS, "A package manager changes an image that was judged as it is.")


def pip(contents: Contents) -> Iterator[tuple[str, str]]:
    """A package manager of Python: as a program, as a package, or as the wheel that it is installed from."""
    yield from _programs(contents, _PIP, "It fetches and runs code that nobody judged.")
    yield from _packages(contents, _PIP_PACKAGES, "It fetches and runs code that nobody judged (`python -m pip`).")


def compiler(contents: Contents) -> Iterator[tuple[str, str]]:
    """A compiler, an assembler, a linker, or what drives them."""
    yield from _programs(contents, _COMPILERS, "It makes programs for an intruder, and the server needs none.")


def ssh(contents: Contents) -> Iterator[tuple[str, str]]:
    """A client or server of SSH."""
    yield from _programs(contents, _SSH, "It is a way into the container, or from it to other machines.")


def jupyter(contents: Contents) -> Iterator[tuple[str, str]]:
    """A notebook server, as a program or a package."""
    yield from _programs(contents, _JUPYTER, "A notebook runs any code that it is sent.")
    yield from _packages(contents, _JUPYTER_PACKAGES, "A notebook runs any code that it is sent.")


def _programs(contents: Contents, names: re.Pattern[str], why: str) -> Iterator[tuple[str, str]]:
    for placed in contents.placed:
        if _is_program(placed) and names.fullmatch(placed.entry.path.rpartition("/")[2]):
            yield placed.where, why


def _is_program(placed: Placed) -> bool:
    """Whether an entry can be started. An ELF file can be without its x bit, by naming it to the dynamic loader."""
    entry = placed.entry
    if entry.kind == "symlink":
        # Files of shell completion and documentation are linked under the names of programs.
        return not entry.path.startswith("/usr/share/")
    return entry.kind in ("file", "hardlink") and (entry.mode & 0o111 != 0 or entry.magic == _ELF)


def _packages(contents: Contents, paths: re.Pattern[str], why: str) -> Iterator[tuple[str, str]]:
    for placed in contents.placed:
        if placed.entry.kind != "folder" and (match := paths.fullmatch(placed.entry.path)):
            yield placed.under(next(group for group in match.groups() if group)), why
