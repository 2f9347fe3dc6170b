"""What the E2B Python SDK, unmodified, may rely on, against an agent on port 49983.

Each function below named test_* is one promise. They are run by e2b_test.go,
one after the other, and report one line of JSON each.
"""

import asyncio
import io
import json
import os
import pathlib
import pwd
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request

from e2b import AsyncSandbox, CommandExitException, PtySize, Sandbox
from e2b.exceptions import (
    AuthenticationException,
    InvalidArgumentException,
    NotFoundException,
    TimeoutException,
)
from e2b.sandbox.signature import get_signature

AGENT = "http://127.0.0.1:49983"
HOME = os.environ["PROMISES_DIR"]  # a scratch directory of this run
# Commands find no profile of this machine's, and relative paths start there.
INIT = {"envVars": {"HOME": HOME}, "defaultWorkdir": HOME}
ROOT = os.geteuid() == 0


def path(*parts):
    return str(pathlib.Path(HOME, *parts))


def expect(kind, call, *args, **kwargs):
    try:
        result = call(*args, **kwargs)
    except kind as e:
        return e
    raise AssertionError(f"got {result!r}, want {kind.__name__}")


def wait_for(what, condition, seconds=20):
    """Polls: the sync SDK offers nothing else."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"never came: {what}")


# --- commands ---------------------------------------------------------------


def test_output_and_exit_code(s):
    r = s.commands.run("echo out; echo err >&2")
    assert (r.stdout, r.stderr, r.exit_code, r.error) == ("out\n", "err\n", 0, None), r


def test_failing_command_raises_its_exit_code(s):
    e = expect(CommandExitException, s.commands.run, "echo why >&2; exit 42")
    assert (e.exit_code, e.stderr) == (42, "why\n"), e


def test_large_output_arrives_whole(s):
    n = 20_000_000
    r = s.commands.run(f"head -c {n} /dev/zero | tr '\\0' x")
    assert len(r.stdout) == n and set(r.stdout) == {"x"}, len(r.stdout)


def test_unicode_output_survives_chunk_borders(s):
    r = s.commands.run("python3 -c \"print('\\u00e9\\u20ac\\U0001f40b' * 40000, end='')\"")
    assert r.stdout == "\u00e9\u20ac\U0001f40b" * 40000


def test_environment(s):
    r = s.commands.run("echo $GREETING:$E2B_SANDBOX", envs={"GREETING": "hej", "E2B_SANDBOX": "false"})
    assert r.stdout == "hej:true\n", r.stdout


def test_working_directory(s):
    assert s.commands.run("pwd", cwd="/usr").stdout == "/usr\n"
    e = expect(InvalidArgumentException, s.commands.run, "true", cwd="/no/such/dir")
    assert "/no/such/dir" in str(e)


def test_user(s):
    if not ROOT:
        return
    assert s.commands.run("whoami", user="root").stdout == "root\n"
    assert s.commands.run("whoami; echo $USER $LOGNAME", user="daemon").stdout == "daemon\ndaemon daemon\n"
    expect(AuthenticationException, s.commands.run, "true", user="nobody-here")


def test_stdout_is_a_file_the_user_may_open(s):
    user = "daemon" if ROOT else None
    assert s.commands.run("echo again > /dev/stdout", user=user).stdout == "again\n"


def test_callbacks_get_output_as_it_comes(s):
    got = []
    s.commands.run("for i in 1 2 3; do echo $i; done; echo e >&2", on_stdout=got.append, on_stderr=got.append)
    assert sorted("".join(got).split()) == ["1", "2", "3", "e"], got


def test_background_command_lists_connects_and_is_killed(s):
    h = s.commands.run("echo ready; exec sleep 300", background=True)
    listed = [p for p in s.commands.list() if p.pid == h.pid]
    assert listed and listed[0].cmd == "/bin/bash" and listed[0].args[:2] == ["-l", "-c"], listed
    again = s.commands.connect(h.pid)
    assert again.pid == h.pid
    assert next(iter(h))[0] == "ready\n"
    assert h.kill() is True
    assert expect(CommandExitException, again.wait).exit_code == -1
    e = expect(CommandExitException, h.wait)
    assert e.error == "signal: killed" and e.stdout == "ready\n", e
    assert h.kill() is False
    assert s.commands.kill(h.pid) is False
    assert not [p for p in s.commands.list() if p.pid == h.pid]


def test_kill_reaches_the_whole_group(s):
    h = s.commands.run("sleep 300 & echo $!; wait", background=True)
    out = next(iter(h))[0]
    h.kill()
    child = int(out)
    wait_for("the child's end", lambda: not os.path.exists(f"/proc/{child}") or "Z" in open(f"/proc/{child}/stat").read().split()[2])


def test_late_connect_still_gets_the_end(s):
    h = s.commands.run("exit 7", background=True)
    expect(CommandExitException, h.wait)
    assert expect(CommandExitException, s.commands.connect(h.pid).wait).exit_code == 7


def test_disconnect_leaves_the_command_running(s):
    h = s.commands.run("sleep 300", background=True)
    h.disconnect()
    assert [p for p in s.commands.list() if p.pid == h.pid]
    assert s.commands.kill(h.pid)


def test_unknown_pid_is_not_found(s):
    expect(NotFoundException, s.commands.connect, 2**31 - 1)
    assert s.commands.kill(2**31 - 1) is False


def test_stdin(s):
    h = s.commands.run("cat", background=True, stdin=True)
    h.send_stdin("one\n")
    h.send_stdin(b"two\n")
    h.close_stdin()
    assert h.wait().stdout == "one\ntwo\n"


def test_streamed_stdin(s):
    h = s.commands.run("wc -c", background=True, stdin=True)
    s.commands.stream_input(h.pid, (b"x" * 100_000 for _ in range(30)))
    s.commands.close_stdin(h.pid)
    assert h.wait().stdout.strip() == "3000000"


def test_no_stdin_reads_as_empty(s):
    assert s.commands.run("cat; echo done").stdout == "done\n"


def test_timeout_ends_the_command(s):
    marker = "299.125"
    expect(TimeoutException, s.commands.run, f"sleep {marker}", timeout=0.5)
    wait_for("the end of sleep", lambda: not any(marker in " ".join(p.args) for p in s.commands.list()))


def test_left_behind_server_does_not_hold_the_command(s):
    r = s.commands.run("sleep 300 & echo $!")
    assert r.exit_code == 0
    s.commands.run(f"kill {r.stdout.strip()}")


def test_many_commands_at_once(s):
    async def all():
        a = await AsyncSandbox.create()
        rs = await asyncio.gather(*(a.commands.run(f"echo {i}") for i in range(60)))
        assert [r.stdout for r in rs] == [f"{i}\n" for i in range(60)]

    asyncio.run(all())


# --- terminals --------------------------------------------------------------


def test_terminal(s):
    seen = bytearray()
    h = s.pty.create(PtySize(rows=24, cols=80), cwd="/", envs={"PS1": "> ", "MARK": "m1"})
    s.pty.send_stdin(h.pid, b"stty size; tty; echo $TERM-$MARK; exit 5\n")
    e = expect(CommandExitException, h.wait, on_pty=seen.extend)
    text = seen.decode()
    assert e.exit_code == 5 and "24 80" in text and "/dev/pts/" in text and "xterm-256color-m1" in text, text


def test_terminal_resize(s):
    seen = bytearray()
    h = s.pty.create(PtySize(rows=24, cols=80))
    s.pty.resize(h.pid, PtySize(rows=40, cols=132))
    s.pty.send_stdin(h.pid, b"stty size; exit\n")
    h.wait(on_pty=seen.extend)
    assert b"40 132" in seen, seen


def test_terminal_kill(s):
    h = s.pty.create(PtySize(rows=24, cols=80))
    assert s.pty.kill(h.pid) is True
    expect(CommandExitException, h.wait)
    assert s.pty.kill(h.pid) is False


# --- files ------------------------------------------------------------------


def test_write_and_read(s):
    info = s.files.write(path("a/b/hello.txt"), "h\u00e9llo")
    assert (info.name, info.path, info.type.value) == ("hello.txt", path("a/b/hello.txt"), "file"), info
    assert s.files.read(path("a/b/hello.txt")) == "h\u00e9llo"
    data = bytes(range(256)) * 40_000
    s.files.write(path("blob"), data)
    assert bytes(s.files.read(path("blob"), format="bytes")) == data
    assert b"".join(s.files.read(path("blob"), format="stream")) == data
    s.files.write(path("blob"), b"")
    assert bytes(s.files.read(path("blob"), format="bytes")) == b""


def test_write_many(s):
    infos = s.files.write_files([{"path": path("many", d, "f"), "data": d} for d in ("x", "y", "z z\u00e9")])
    assert [i.path for i in infos] == [path("many", d, "f") for d in ("x", "y", "z z\u00e9")], infos
    assert s.files.read(path("many/z z\u00e9/f")) == "z z\u00e9"


def test_streamed_and_compressed_uploads(s):
    s.files.write(path("stream"), io.BytesIO(b"s" * 3_000_000))
    assert len(s.files.read(path("stream"), format="bytes")) == 3_000_000
    s.files.write(path("chunks"), (b"c" * 1000 for _ in range(500)))
    assert s.files.read(path("chunks")) == "c" * 500_000
    s.files.write(path("packed"), "p" * 100_000, gzip=True)
    assert s.files.read(path("packed")) == "p" * 100_000
    assert s.files.read(path("packed"), gzip=True) == "p" * 100_000
    s.files.write(path("octets"), b"o", use_octet_stream=True)
    assert s.files.read(path("octets")) == "o"


def test_files_belong_to_the_user(s):
    if not ROOT:
        return
    s.files.write(path("owned/dir/file"), "x", user="daemon")
    s.files.make_dir(path("owned/made"), user="daemon")
    for p in ("owned", "owned/dir", "owned/dir/file", "owned/made"):
        info = s.files.get_info(path(p))
        assert (info.owner, info.group) == ("daemon", "daemon"), (p, info)
    s.files.write(path("owned/dir/file"), "y")
    assert s.files.get_info(path("owned/dir/file")).owner == "daemon"


def test_file_info(s):
    s.files.write(path("info/f"), "12345")
    os.chmod(path("info/f"), 0o640)
    i = s.files.get_info(path("info/f"))
    assert (i.name, i.type.value, i.size, i.mode, i.permissions) == ("f", "file", 5, 0o640, "-rw-r-----"), i
    assert abs(i.modified_time.timestamp() - os.stat(path("info/f")).st_mtime) < 1e-3
    d = s.files.get_info(path("info"))
    assert d.type.value == "dir" and d.permissions.startswith("d"), d
    os.symlink(path("info/f"), path("info/link"))
    link = s.files.get_info(path("info/link"))
    assert link.symlink_target == path("info/f") and link.type.value == "symlink", link


def test_listing(s):
    for p in ("list/a", "list/d/b", "list/d/e/c"):
        s.files.write(path(p), "x")
    names = lambda **k: [i.path.removeprefix(path("list") + "/") for i in s.files.list(path("list"), **k)]
    assert names() == ["a", "d"], names()
    assert names(depth=2) == ["a", "d", "d/b", "d/e"], names(depth=2)
    assert names(depth=9) == ["a", "d", "d/b", "d/e", "d/e/c"]
    os.symlink(path("list"), path("listlink"))
    assert [i.path for i in s.files.list(path("listlink"))] == [path("listlink/a"), path("listlink/d")]
    expect(NotFoundException, s.files.list, path("nope"))
    expect(InvalidArgumentException, s.files.list, path("list/a"))


def test_rename_remove_exists_and_make_dir(s):
    s.files.write(path("mv/from"), "x")
    assert s.files.exists(path("mv/from"))
    i = s.files.rename(path("mv/from"), path("mv/new/to"))
    assert i.path == path("mv/new/to"), i
    assert not s.files.exists(path("mv/from")) and s.files.exists(path("mv/new/to"))
    expect(NotFoundException, s.files.rename, path("mv/from"), path("mv/x"))
    s.files.remove(path("mv"))
    assert not s.files.exists(path("mv"))
    s.files.remove(path("mv"))
    assert s.files.make_dir(path("mk/deep")) is True
    assert s.files.make_dir(path("mk/deep")) is False


def test_refusals(s):
    expect(NotFoundException, s.files.read, path("missing"))
    expect(InvalidArgumentException, s.files.read, HOME)
    expect(InvalidArgumentException, s.files.write, HOME, "x")
    expect(AuthenticationException, s.files.read, path("missing"), user="nobody-here")


def test_relative_and_home_paths(s):
    assert s.files.write("relative/f", "x").path == path("relative/f")
    assert s.files.read("relative/f") == "x"
    home = pwd.getpwuid(os.geteuid()).pw_dir
    if os.path.isdir(home):
        assert s.files.get_info("~").path == os.path.normpath(home)


def test_kernel_files_are_read_to_their_end(s):
    assert "MemTotal" in s.files.read("/proc/meminfo")
    assert s.files.read("/sys/kernel/mm/transparent_hugepage/enabled").strip() if os.path.exists("/sys/kernel/mm/transparent_hugepage/enabled") else True


def test_metadata(s):
    i = s.files.write(path("meta"), "x", metadata={"Author": "ann", "k.2": "v 2"})
    assert i.metadata == {"author": "ann", "k.2": "v 2"}, i
    assert s.files.get_info(path("meta")).metadata == {"author": "ann", "k.2": "v 2"}
    s.files.write(path("meta"), "y", metadata={"only": "this"})
    assert s.files.get_info(path("meta")).metadata == {"only": "this"}
    s.files.write(path("meta"), "z")
    assert s.files.get_info(path("meta")).metadata is None


def test_polled_watch(s):
    s.files.make_dir(path("watch"))
    w = s.files.watch_dir(path("watch"), include_entry=True)
    s.files.write(path("watch/new.txt"), "x")
    got = []

    def have():
        got.extend(w.get_new_events())
        return {"create", "write"} <= {e.type.value for e in got if e.name == "new.txt"}

    wait_for("create and write", have)
    assert any(e.entry and e.entry.path == path("watch/new.txt") for e in got), got
    s.files.remove(path("watch/new.txt"))
    wait_for("remove", lambda: any(e.type.value == "remove" for e in w.get_new_events()))
    w.stop()
    expect(NotFoundException, s.files.watch_dir, path("no-dir"))
    expect(InvalidArgumentException, s.files.watch_dir, path("a-file") if s.files.write(path("a-file"), "x") else "")


def test_recursive_watch_sees_into_new_directories(s):
    s.files.make_dir(path("rwatch/old"))
    w = s.files.watch_dir(path("rwatch"), recursive=True)
    s.files.write(path("rwatch/old/f"), "x")
    s.files.write(path("rwatch/n1/n2/g"), "x")
    got = set()

    def have():
        got.update(e.name for e in w.get_new_events() if e.type.value == "create")
        return {"old/f", "n1", "n1/n2", "n1/n2/g"} <= got

    wait_for("all creates", have)
    w.stop()


# --- the asynchronous SDK ---------------------------------------------------


async def atest_commands(a):
    r = await a.commands.run("echo out; echo err >&2")
    assert (r.stdout, r.stderr) == ("out\n", "err\n")
    h = await a.commands.run("cat", background=True, stdin=True)
    await a.commands.send_stdin(h.pid, "hi\n")
    await a.commands.close_stdin(h.pid)
    assert (await h.wait()).stdout == "hi\n"
    h = await a.commands.run("sleep 300", background=True)
    assert await h.kill() is True and await h.kill() is False
    try:
        await h.wait()
    except CommandExitException as e:
        assert e.error == "signal: killed"


async def atest_files(a):
    await a.files.write(path("async/f"), "x", metadata={"k": "v"})
    assert await a.files.read(path("async/f")) == "x"
    assert (await a.files.get_info(path("async/f"))).metadata == {"k": "v"}
    assert [i.name for i in await a.files.list(path("async"))] == ["f"]
    assert await a.files.exists(path("async/none")) is False
    await a.files.rename(path("async/f"), path("async/g"))
    await a.files.remove(path("async"))


async def atest_streamed_watch(a):
    await a.files.make_dir(path("awatch"))
    got, seen = [], asyncio.Event()

    def on_event(e):
        got.append((e.name, e.type.value))
        if ("f", "write") in got and ("sub/g", "create") in got:
            seen.set()

    w = await a.files.watch_dir(path("awatch"), on_event=on_event, recursive=True)
    await a.files.write(path("awatch/f"), "x")
    await a.files.write(path("awatch/sub/g"), "x")
    await asyncio.wait_for(seen.wait(), 20)
    await w.stop()


async def atest_terminal(a):
    out = bytearray()
    h = await a.pty.create(PtySize(rows=10, cols=20), on_data=out.extend)
    await a.pty.send_stdin(h.pid, b"stty size; exit\n")
    await h.wait()
    assert b"10 20" in out, out


# --- signed links -----------------------------------------------------------


def http(method, url, body=None, headers={}):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body, headers=headers, method=method)) as r:
            return r.status, r.read()
    except urllib.error.HTTPError as e:
        return e.code, e.read()


def test_signed_links(s):
    """Runs last: it sets a token, which clients of debug mode do not send."""
    token = "secret-token"
    s.files.write(path("signed"), "content")
    init(accessToken=token)
    try:

        def get(op="read", shift=None, tok=token, drop=False):
            sig = get_signature(path("signed"), op, None, tok, shift)
            q = {"path": path("signed")}
            if not drop:
                q["signature"] = sig["signature"]
            if sig["expiration"] is not None:
                q["signature_expiration"] = sig["expiration"]
            return http("GET", AGENT + "/files?" + urllib.parse.urlencode(q))

        refused = lambda text: (401, {"code": 401, "message": text})
        both = lambda r: (r[0], json.loads(r[1]))
        assert get() == (200, b"content")
        assert get(shift=60) == (200, b"content")
        assert both(get(shift=-60)) == refused("signature is already expired")
        assert both(get(tok="other")) == refused("invalid signature")
        assert both(get(op="write")) == refused("invalid signature")
        assert both(get(drop=True)) == refused("missing signature query parameter")
        expect(AuthenticationException, s.commands.run, "true")
        assert s.is_running()
    finally:
        init()
    assert s.commands.run("echo open").stdout == "open\n"


def init(**more):
    status, _ = http("POST", AGENT + "/init", json.dumps(INIT | more).encode())
    assert status == 200, status


def report(name, error=None):
    print(json.dumps({"promise": name, "error": error}), flush=True)


async def run_async(name, fn):
    await fn(await AsyncSandbox.create())


def main():
    init()
    s = Sandbox.create()
    for name, fn in list(globals().items()):
        try:
            if name.startswith("test_"):
                fn(s)
            elif name.startswith("atest_"):
                asyncio.run(run_async(name, fn))
            else:
                continue
            report(name)
        except BaseException:
            report(name, traceback.format_exc())


if __name__ == "__main__":
    main()
