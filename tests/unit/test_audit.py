"""Every rule of the audit: a clean image passes; each planted fault is found by its rule, in its place, and alone."""

import tarfile
from typing import Any

import pytest

from pipeline.audit import audit
from pipeline.audit.rules import RULES
from pipeline.errors import AuditError
from tests.unit.audit_layers import (
    CONFIG,
    ELF,
    HISTORY,
    PYTHON,
    ROOT,
    SERVER,
    Member,
    folder,
    layer,
    link,
    program,
)
from tests.unit.fake_engine import FakeEngine

TAG = "model:1-cpu"
KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n-----END OPENSSH PRIVATE KEY-----\n"
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIU\n-----END CERTIFICATE-----\n"
GITHUB = "ghp_" + "a1B2" * 9
SITE = "/opt/torchyard/site"


def findings_of(*faulty: bytes, history: tuple[dict[str, str], ...] = (), **config: Any) -> dict[str, str]:
    """What is found in the clean image with more layers, history and settings: places by rule."""
    engine = FakeEngine()
    engine.add(TAG, layers=(ROOT, SERVER, *faulty), config={**CONFIG, **config}, history=(*HISTORY, *history))
    try:
        found = [(finding.rule, finding.where) for finding in audit(TAG, engine=engine).findings]
    except AuditError as error:
        heads = [part.splitlines()[0].partition(": ") for part in str(error).split("\n\n")[1:]]
        found = [(rule, where) for rule, _, where in heads]
    assert len(found) == len(dict(found)), found
    return dict(found)


def test_a_clean_image_passes_with_its_digest_and_size() -> None:
    engine = FakeEngine()
    image = engine.add(TAG, layers=(ROOT, SERVER), config=CONFIG, history=HISTORY)

    verdict = audit(TAG, engine=engine)

    assert (verdict.gate, verdict.digest, verdict.against, verdict.findings) == ("audit", image.digest, "", ())
    assert (verdict.measured["layers"], verdict.measured["files"]) == (2, 20)
    assert 2**20 < verdict.measured["bytes"] < 2**20 + 2**14


@pytest.mark.parametrize(
    ("rule", "path", "member"),
    [
        ("shell", "/usr/bin/sh", program("usr/bin/sh")),
        ("shell", "/opt/tools/sh", Member(path="/opt/tools/sh", content=ELF)),
        ("shell", "/usr/bin/bash", link("usr/bin/bash", "python3.13")),
        ("shell", "/opt/bash-static", Member(path="opt/bash-static", content=b"\x7fELF", mode=0o755)),
        ("shell", "/usr/bin/dash", Member(path="usr/bin/dash", type=tarfile.LNKTYPE, target="opt/x", mode=0o755)),
        ("shell", "/bin/busybox", program("./bin/busybox")),
        ("interpreter", "/usr/bin/mawk", program("usr/bin/mawk")),
        ("interpreter", "/usr/bin/perl5.40.1", program("usr/bin/perl5.40.1")),
        ("package-manager", "/usr/bin/apt-get", program("usr/bin/apt-get")),
        ("package-manager", "/usr/bin/dpkg", program("usr/bin/dpkg")),
        ("package-manager", "/sbin/apk", program("sbin/apk")),
        ("pip", "/usr/bin/pip3.13", Member(path="usr/bin/pip3.13", content=b"#!/usr/bin/python3\n", mode=0o755)),
        ("pip", "/usr/bin/uv", program("usr/bin/uv")),
        ("pip", f"{SITE}/pip/", Member(path=f"{SITE}/pip/__init__.py")),
        ("pip", f"{SITE}/pip-25.1.dist-info/", Member(path=f"{SITE}/pip-25.1.dist-info/METADATA")),
        ("pip", "/usr/lib/python3.13/ensurepip/", Member(path="usr/lib/python3.13/ensurepip/__main__.py")),
        (
            "pip",
            f"{SITE}/setuptools/command/easy_install.py",
            Member(path=f"{SITE}/setuptools/command/easy_install.py"),
        ),
        ("pip", "/opt/w/pip-25.1-py3-none-any.whl", Member(path="opt/w/pip-25.1-py3-none-any.whl", content=b"PK")),
        ("compiler", "/usr/bin/x86_64-linux-gnu-gcc-14", program("usr/bin/x86_64-linux-gnu-gcc-14")),
        ("compiler", "/usr/libexec/gcc/cc1plus", program("usr/libexec/gcc/cc1plus")),
        ("compiler", "/usr/bin/ld.bfd", program("usr/bin/ld.bfd")),
        ("compiler", "/usr/bin/as", program("usr/bin/as")),
        ("compiler", "/usr/bin/make", program("usr/bin/make")),
        ("ssh", "/usr/sbin/sshd", program("usr/sbin/sshd")),
        ("ssh", "/usr/bin/ssh-keygen", program("usr/bin/ssh-keygen")),
        ("jupyter", "/usr/bin/jupyter-lab", program("usr/bin/jupyter-lab")),
        ("jupyter", f"{SITE}/jupyter_server/", Member(path=f"{SITE}/jupyter_server/__init__.py")),
        ("setuid", "/usr/bin/su", Member(path="usr/bin/su", content=ELF, mode=0o4755)),
        ("setuid", "/usr/bin/wall", Member(path="usr/bin/wall", content=ELF, mode=0o2755)),
        (
            "file-capability",
            "/usr/bin/ping",
            Member(path="usr/bin/ping", mode=0o755, headers={"SCHILY.xattr.security.capability": "\x01\x00\x00\x02"}),
        ),
        ("world-writable", "/etc/hosts", Member(path="etc/hosts", mode=0o666)),
        ("world-writable", "/opt/open", folder("opt/open", 0o777)),
        ("world-writable", "/opt/open", folder("opt/open", 0o1777)),
        ("world-writable", "/tmp", folder("tmp", 0o777)),
        ("runtime-writable", "/model/model.pt", Member(path="model/model.pt", mode=0o444, uid=65532)),
        ("runtime-writable", "/opt/torchyard/lib/a.so", Member(path="opt/torchyard/lib/a.so", mode=0o664, gid=65532)),
        ("runtime-writable", "/usr/lib/python3.13", folder("usr/lib/python3.13", uid=65532)),
        ("special-file", "/dev/sda", Member(path="dev/sda", type=tarfile.BLKTYPE)),
        ("special-file", "/dev/null", Member(path="dev/null", type=tarfile.CHRTYPE)),
        ("special-file", "/run/pipe", Member(path="run/pipe", type=tarfile.FIFOTYPE)),
        ("secret-file", "/etc/pip.conf", Member(path="etc/pip.conf", content=b"x")),
        *(
            ("secret-file", f"/opt/{name}", Member(path=f"opt/{name}", content=b"x"))
            for name in (".env", ".env.production", "prod.env", "id.ppk", "terraform.tfstate", "kubeconfig")
        ),
        ("secret-file", "/root/.netrc", Member(path="root/.netrc", content=b"x")),
        ("secret-file", "/root/.pypirc", Member(path="root/.pypirc", content=b"x")),
        ("secret-file", "/root/.docker/config.json", Member(path="root/.docker/config.json", content=b"{}")),
        ("secret-file", "/root/.ssh/", Member(path="root/.ssh/known_hosts", content=b"x")),
        ("secret-file", "/home/x/.aws/", Member(path="home/x/.aws/config", content=b"x")),
        ("secret-content", "/etc/key.txt", Member(path="etc/key.txt", content=KEY)),
        (
            "secret-content",
            "/etc/key.json",
            Member(path="etc/key.json", content=b'{"k": ' + KEY.replace(b"\n", b"\\n")),
        ),
        ("secret-content", "/model/blob", Member(path="model/blob", content=bytes(2**20 - 9) + KEY + bytes(2**20))),
        ("secret-content", "/etc/big", Member(path="etc/big", content=b"x\n" * 2**19 + b"AKIA" + b"ABCD" * 4)),
        ("secret-content", "/etc/a", Member(path="etc/a", content=b"key AKIAIOSFODNN7EXAMPLE\n")),
        ("secret-content", "/etc/a", Member(path="etc/a", content=b"aws_secret_access_key = " + b"a1B/" * 10)),
        ("secret-content", "/etc/a", Member(path="etc/a", content=f"token={GITHUB}".encode())),
        ("secret-content", "/etc/a", Member(path="etc/a", content=b"pypi-AgEIcHlwaS5vcmcCJDAwMDAw")),
        ("secret-content", "/etc/a", Member(path="etc/a", content=b"npm_" + b"a1B2" * 9)),
        ("secret-content", "/etc/a", Member(path="etc/a", content=b"xoxb-123456789012-abcdef")),
        ("secret-content", "/etc/a", Member(path="etc/a", content=b"url = https://user:password@host.internal/simple")),
        ("ca-bundle", "/etc/ssl/certs/", Member(path="etc/ssl/certs/ca-certificates.crt", content=CERTIFICATE)),
        ("ca-bundle", f"{SITE}/certifi/", Member(path=f"{SITE}/certifi/cacert.pem", content=CERTIFICATE)),
        ("ca-bundle", "/etc/builder", Member(path="etc/builder", content=CERTIFICATE)),
        ("leftover", "/var/lib/apt/lists/", Member(path="var/lib/apt/lists/deb_main_Packages")),
        ("leftover", "/root/.cache/", Member(path="root/.cache/http/a")),
        ("leftover", "/tmp/", Member(path="tmp/build/a.txt")),
        ("leftover", "/var/log/", Member(path="var/log/dpkg")),
        ("leftover", "/opt/build.log", Member(path="opt/build.log")),
        ("docker-socket", "/run/docker.sock", Member(path="run/docker.sock")),
        ("environment", "/etc/ld.so.preload", Member(path="etc/ld.so.preload")),
    ],
)
def test_a_planted_file_is_found(rule: str, path: str, member: Member) -> None:
    where = path if rule == "environment" else f"{path} (layer 3)"

    assert findings_of(layer(member)) == {rule: where}


@pytest.mark.parametrize(
    ("rule", "where", "config"),
    [
        ("user", "config.User", {"User": ""}),
        ("user", "config.User", {"User": "0:0"}),
        ("user", "config.User", {"User": "00:65532"}),
        ("user", "config.User", {"User": "nonroot:nonroot"}),
        ("user", "config.User", {"User": "65532"}),
        ("user", "config.User", {"User": "65532:0"}),
        ("user", "config.User", {"User": "65532:root"}),
        ("entrypoint", "config.Entrypoint", {"Entrypoint": None}),
        ("entrypoint", "config.Entrypoint", {"Entrypoint": ["/bin/sh", "-c", "python3.13 -m server"]}),
        ("entrypoint", "config.Entrypoint", {"Entrypoint": ["/usr/bin/server"]}),
        ("entrypoint", "config.Entrypoint", {"Entrypoint": ["server"]}),
        ("entrypoint", "config.Entrypoint", {"Entrypoint": ["/usr/bin"]}),
        ("entrypoint", "config.Entrypoint", {"Entrypoint": ["/usr/lib/python3.13/ssl.py"]}),
        ("entrypoint", "config.Cmd", {"Cmd": ["/bin/sh", "-c", "serve"]}),
        ("healthcheck", "config.Healthcheck", {"Healthcheck": None}),
        ("healthcheck", "config.Healthcheck", {"Healthcheck": {"Interval": 5}}),
        ("healthcheck", "config.Healthcheck", {"Healthcheck": {"Test": ["NONE"]}}),
        ("healthcheck", "config.Healthcheck", {"Healthcheck": {"Test": ["CMD-SHELL", "curl localhost"]}}),
        ("healthcheck", "config.Healthcheck", {"Healthcheck": {"Test": ["CMD"]}}),
        ("healthcheck", "config.Healthcheck", {"Healthcheck": {"Test": ["CMD", "/usr/bin/curl"]}}),
        ("healthcheck", "config.Healthcheck", {"Healthcheck": {"Test": ["CMD", "/bin/sh", "-c", "true"]}}),
        ("port", "config.ExposedPorts", {"ExposedPorts": None}),
        ("port", "config.ExposedPorts 22/tcp", {"ExposedPorts": {"8080/tcp": {}, "8081/tcp": {}, "22/tcp": {}}}),
        ("port", "config.ExposedPorts 8080/udp", {"ExposedPorts": {"8080/tcp": {}, "8080/udp": {}}}),
        ("volume", "config.Volumes /data", {"Volumes": {"/data": {}}}),
        ("environment", "config.Env LD_PRELOAD", {"Env": ["LD_PRELOAD=/opt/hook.so"]}),
        ("environment", "config.Env PYTHONSTARTUP", {"Env": ["PYTHONSTARTUP=/opt/start.py"]}),
        ("environment", "config.Env PYTHONPATH", {"Env": ["PYTHONPATH=/opt:/tmp/site"]}),
        ("environment", "config.Env LD_LIBRARY_PATH", {"Env": ["LD_LIBRARY_PATH=/opt/lib:"]}),
        ("ca-bundle", "config.Env PIP_CERT", {"Env": ["PIP_CERT=/run/ca.pem"]}),
        ("docker-socket", "config.Env DOCKER_HOST", {"Env": ["DOCKER_HOST=tcp://10.0.0.1:2375"]}),
        ("secret-setting", "config.Env DB_PASSWORD", {"Env": ["DB_PASSWORD=hunter2"]}),
        ("secret-setting", "config.Env DB_PASS", {"Env": ["DB_PASS=hunter2"]}),
        ("secret-setting", "config.Env NPM_AUTHTOKEN", {"Env": ["NPM_AUTHTOKEN=hunter2"]}),
        ("secret-setting", "config.Env SIGNING_KEY", {"Env": ["SIGNING_KEY=hunter2"]}),
        ("secret-setting", "config.Env GREETING", {"Env": [f"GREETING={GITHUB}"]}),
        ("secret-setting", "config.Env PIP_INDEX_URL", {"Env": ["PIP_INDEX_URL=https://ci:s3cret@pypi.internal/"]}),
        ("secret-setting", "config.Cmd", {"Cmd": [f"--token={GITHUB}"]}),
    ],
)
def test_a_planted_setting_is_found(rule: str, where: str, config: dict[str, Any]) -> None:
    assert findings_of(**config) == {rule: where}


@pytest.mark.parametrize(
    ("where", "step"),
    [
        ("history 3 NPM_TOKEN", "RUN |1 NPM_TOKEN=abcdef /bin/sh -c npm ci # buildkit"),
        ("history 3 API_KEY", 'ARG API_KEY="abcdef"'),
        ("history 3", "RUN pip install -i https://ci:s3cret@pypi.internal/simple torch"),
    ],
)
def test_a_build_argument_with_a_secret_is_found(where: str, step: str) -> None:
    assert findings_of(history=({"created_by": step},)) == {"secret-setting": where}


def test_a_label_with_a_secret_is_found() -> None:
    engine = FakeEngine()
    engine.add(TAG, layers=(ROOT, SERVER), config=CONFIG, labels={"org.ci.token": "abcdef"})

    with pytest.raises(AuditError, match=r"secret-setting: config\.Labels org\.ci\.token"):
        audit(TAG, engine=engine)


def test_the_secret_itself_is_not_in_the_message() -> None:
    engine = FakeEngine()
    engine.add(TAG, layers=(ROOT, SERVER), config={**CONFIG, "Env": [f"A={GITHUB}", "DB_PASSWORD=hunter2"]})

    with pytest.raises(AuditError) as refusal:
        audit(TAG, engine=engine)

    assert "hunter2" not in str(refusal.value)
    assert GITHUB not in str(refusal.value)


@pytest.mark.parametrize("env", ["DB_PASSWORD=", "TOKEN_FILE=/run/secrets/token", "MAX_TOKENS=512", "AUTH=false"])
def test_a_setting_that_only_sounds_like_a_secret_passes(env: str) -> None:
    assert findings_of(Env=[env]) == {}


@pytest.mark.parametrize(
    ("rule", "path", "member"),
    [
        ("setuid", "/usr/bin/su", Member(path="usr/bin/su", content=ELF, mode=0o4755)),
        ("secret-content", "/etc/key", Member(path="etc/key", content=KEY)),
        ("shell", "/usr/bin/sh", program("usr/bin/sh")),
    ],
)
def test_what_a_later_layer_deletes_or_replaces_is_still_in_the_image(rule: str, path: str, member: Member) -> None:
    folder_of, _, name = path.rpartition("/")
    harmless = Member(path=path, content=b"")

    assert findings_of(layer(member), layer(Member(path=f"{folder_of}/.wh.{name}"))) == {
        rule: f"{path} (layer 3, deleted later)"
    }
    assert findings_of(layer(member), layer(harmless)) == {rule: f"{path} (layer 3, replaced later)"}


def test_the_place_where_a_build_secret_was_mounted_is_no_secret() -> None:
    assert findings_of(layer(Member(path="run/secrets/pip.conf"))) == {}
    assert findings_of(layer(Member(path="run/secrets/pip.conf", content=b"x"))) == {
        "secret-file": "/run/secrets/pip.conf (layer 3)"
    }


def test_permissions_are_judged_as_containers_see_them() -> None:
    open_file = Member(path="etc/hosts", mode=0o666)

    assert findings_of(layer(open_file), layer(Member(path="etc/hosts"))) == {}
    assert findings_of(layer(open_file), layer(Member(path="etc/.wh.hosts"))) == {}
    assert findings_of(layer(Member(path="etc/.wh.hosts"), open_file)) == {"world-writable": "/etc/hosts (layer 3)"}


@pytest.mark.parametrize("deleted", ["usr/bin/.wh.python3.13", "usr/.wh.bin", "usr/.wh..wh..opq"])
def test_a_deleted_entrypoint_is_missing(deleted: str) -> None:
    assert findings_of(layer(Member(path=deleted))) == {
        "entrypoint": "config.Entrypoint",
        "healthcheck": "config.Healthcheck",
    }


@pytest.mark.parametrize(
    "members",
    [
        (link("usr/bin/serve", "../lib/serve"),),
        (link("usr/bin/serve", "serve"),),
        (link("usr/bin/serve", "../../../../../etc/serve"),),
        (Member(path="usr/bin/serve", content=ELF, mode=0o754),),
        (folder("usr/bin/serve"),),
    ],
)
def test_an_entrypoint_that_cannot_be_started_is_found(members: tuple[Member, ...]) -> None:
    found = findings_of(layer(*members), Entrypoint=["/usr/bin/serve"])

    assert found["entrypoint"] == "config.Entrypoint"


@pytest.mark.parametrize(
    ("entrypoint", "members"),
    [
        ("/bin/python3.13", ()),
        ("python3.13", ()),
        ("/serve", (link("serve", "/bin/../bin/python3.13"),)),
        ("/opt/a/serve", (link("opt/a", "../usr"), link("usr/serve", "bin/python3.13"))),
        ("../usr/bin/python3.13", ()),
    ],
)
def test_an_entrypoint_is_found_through_links(entrypoint: str, members: tuple[Member, ...]) -> None:
    assert findings_of(layer(*members), Entrypoint=[entrypoint], WorkingDir="/model") == {}


def test_code_is_also_what_the_environment_and_the_working_folder_name() -> None:
    own = {"uid": 65532}

    assert findings_of(layer(folder("srv/app", **own)), Env=["PYTHONPATH=/srv/app"]) == {
        "runtime-writable": "/srv/app (layer 3)"
    }
    assert findings_of(layer(folder("srv", **own)), Env=["PYTHONPATH=/srv/app"]) == {
        "runtime-writable": "/srv (layer 3)"
    }
    assert findings_of(layer(folder("work", **own)), WorkingDir="/work") == {"runtime-writable": "/work (layer 3)"}
    assert findings_of(layer(folder("scratch", **own))) == {}


def test_a_warning_stays_in_the_verdict() -> None:
    engine = FakeEngine()
    engine.add(TAG, layers=(ROOT, SERVER, layer(link("usr/lib/liba.so", "liba.so.1"))), config=CONFIG)

    (finding,) = audit(TAG, engine=engine).findings

    assert (finding.rule, finding.level, finding.where) == ("dangling-link", "warning", "/usr/lib/liba.so (layer 3)")


def test_an_accepted_branch_is_repeated() -> None:
    engine = FakeEngine()
    labels = {"io.torchyard.accepted-frozen-branch": "one size only"}
    engine.add(TAG, layers=(ROOT, SERVER), config=CONFIG, labels=labels)

    (finding,) = audit(TAG, engine=engine).findings

    assert (finding.rule, finding.level) == ("frozen-branch", "warning")
    assert "one size only" in finding.message


def test_every_finding_is_in_the_message_with_reason_and_fix() -> None:
    engine = FakeEngine()
    image = engine.add(TAG, layers=(ROOT, SERVER, layer(program("usr/bin/sh"))), config={**CONFIG, "User": "root"})

    with pytest.raises(AuditError) as refusal:
        audit(TAG, engine=engine)

    assert str(refusal.value) == (
        f"{TAG} ({image.digest}) breaks the rules of a serving image: 2 to mend.\n\n"
        "user: config.User\n"
        "  It is 'root': only a number can be seen not to be root (Kubernetes' runAsNonRoot).\n"
        "  Fix: Write `USER 65532:65532` in the Dockerfile.\n\n"
        "shell: /usr/bin/sh (layer 3)\n"
        "  A shell runs whatever an intruder types or injects.\n"
        "  Fix: Copy only what the server needs from a build stage; "
        "deleting it in a later layer leaves it inside the image."
    )


def test_a_path_cannot_forge_lines_of_the_message() -> None:
    found = findings_of(layer(Member(path="opt/a\n\nport: all fine/sh", content=ELF)))

    assert found == {"shell": "'/opt/a\\n\\nport: all fine/sh' (layer 3)"}


def test_an_image_that_is_not_there_is_named() -> None:
    with pytest.raises(AuditError, match=r"^model:1-cpu: the engine has no such image.*inv build-serving"):
        audit(TAG, engine=FakeEngine())


def test_rules_have_names_of_their_own() -> None:
    names = [rule.name for rule in RULES]

    assert len(set(names)) == len(names)
    assert all(name == name.lower() and " " not in name for name in names)
    assert PYTHON in next(rule.fix for rule in RULES if rule.name == "entrypoint")
