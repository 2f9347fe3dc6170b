package layertest

import (
	"archive/tar"
	"fmt"
	"strings"
	"time"
)

// Dir is a directory.
func Dir(name string, mode int64) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}}
}

// File is a regular file of mode 0644.
func File(name, body string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, Body: body}
}

// Symlink is a symbolic link.
func Symlink(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

// Hardlink is a hard link.
func Hardlink(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}}
}

// Whiteout is the marker that removes name.
func Whiteout(name string) Entry {
	i := strings.LastIndexByte(name, '/') + 1
	return File(name[:i]+".wh."+name[i:], "")
}

// Opaque is the marker that removes all that lower layers have in dir.
func Opaque(dir string) Entry { return File(dir+"/.wh..wh..opq", "") }

// With changes an entry.
func (e Entry) With(change func(*Entry)) Entry {
	change(&e)
	return e
}

// Owner gives an entry to a user and a group.
func (e Entry) Owner(uid, gid int) Entry {
	e.Uid, e.Gid = uid, gid
	return e
}

// Xattr adds an extended attribute.
func (e Entry) Xattr(name, value string) Entry {
	records := map[string]string{"SCHILY.xattr." + name: value}
	for k, v := range e.PAXRecords {
		records[k] = v
	}
	e.PAXRecords = records
	return e
}

// At sets the modification time.
func (e Entry) At(unix int64) Entry {
	e.ModTime = time.Unix(unix, 0)
	return e
}

// Device is a device node.
func Device(kind byte, name string, major, minor int64) Entry {
	return Entry{Header: tar.Header{Typeflag: kind, Name: name, Mode: 0o600, Devmajor: major, Devminor: minor}}
}

// capNetRaw is cap_net_raw+ep, in the kernel's vfs_cap_data of revision 2.
const capNetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// far is a minor number beyond the 8 bits of old.
const far = 300

var (
	long255 = strings.Repeat("n", 255)
	deep    = strings.Repeat("directory-of-a-long-name/", 40)
)

func deepDirs() []string {
	var want []string
	parts := strings.Split(strings.TrimSuffix(deep, "/"), "/")
	for i := range parts {
		want = append(want, "d 0755 0:0 "+strings.Join(parts[:i+1], "/"))
	}
	return append(want, `f 0644 0:0 `+deep+`file "deep"`)
}

// Layer makes a layer of entries.
func Layer(entries ...Entry) []Entry { return entries }

// Cases is the table.
func Cases() []Case {
	return append(append(removals(), replacements()...), append(attributes(), append(oddities(), paths()...)...)...)
}

func removals() []Case {
	return []Case{
		{
			Name:   "a whiteout removes a file of a lower layer",
			Layers: [][]Entry{Layer(File("a", "1"), File("b", "1")), Layer(Whiteout("a"))},
			Want:   []string{`f 0644 0:0 b "1"`},
		}, {
			Name:   "a whiteout removes a directory with all below it",
			Layers: [][]Entry{Layer(Dir("d", 0o700), Dir("d/e", 0o755), File("d/e/f", "1")), Layer(Whiteout("d"))},
		}, {
			Name:   "a whiteout of a symbolic link removes the link alone",
			Layers: [][]Entry{Layer(File("a", "1"), Symlink("l", "a")), Layer(Whiteout("l"))},
			Want:   []string{`f 0644 0:0 a "1"`},
		}, {
			Name:   "a whiteout of nothing makes its parents only",
			Layers: [][]Entry{Layer(Whiteout("x/y"))},
			Want:   []string{`d 0755 0:0 x`},
		}, {
			Name:   "whiteout, then the file again in the same layer",
			Layers: [][]Entry{Layer(File("a", "old")), Layer(Whiteout("a"), File("a", "new"))},
			Want:   []string{`f 0644 0:0 a "new"`},
		}, {
			Name:   "the file again, then its whiteout in the same layer",
			Layers: [][]Entry{Layer(File("a", "old")), Layer(File("a", "new"), Whiteout("a"))},
			Want:   []string{`f 0644 0:0 a "new"`},
		}, {
			Name: "whiteout, then the directory again",
			Layers: [][]Entry{
				Layer(Dir("d", 0o700), File("d/old", "1")),
				Layer(Whiteout("d"), Dir("d", 0o750), File("d/new", "2")),
			},
			Want: []string{`d 0750 0:0 d`, `f 0644 0:0 d/new "2"`},
		}, {
			Name: "the directory again, then its whiteout",
			Layers: [][]Entry{
				Layer(Dir("d", 0o700), File("d/old", "1"), Dir("d/both", 0o700), File("d/both/old", "1")),
				Layer(Dir("d", 0o750), File("d/new", "2"), Dir("d/both", 0o711), Whiteout("d")),
			},
			Want: []string{`d 0750 0:0 d`, `d 0711 0:0 d/both`, `f 0644 0:0 d/new "2"`},
		}, {
			Name: "a file in a directory that is whited out after it makes the directory anew",
			Layers: [][]Entry{
				Layer(Dir("d", 0o700).Owner(7, 7).Xattr("user.x", "1"), File("d/old", "1")),
				Layer(File("d/new", "2"), Whiteout("d")),
			},
			Want: []string{`d 0755 0:0 d`, `f 0644 0:0 d/new "2"`},
		}, {
			Name: "an opaque directory hides what is below, at any depth",
			Layers: [][]Entry{
				Layer(Dir("d", 0o700), File("d/a", "1"), Dir("d/e", 0o700), File("d/e/b", "1"), File("c", "1")),
				Layer(Dir("d", 0o711), Opaque("d"), File("d/new", "2")),
			},
			Want: []string{`f 0644 0:0 c "1"`, `d 0711 0:0 d`, `f 0644 0:0 d/new "2"`},
		}, {
			Name: "an opaque marker at the end spares its own layer",
			Layers: [][]Entry{
				Layer(Dir("d", 0o700), File("d/a", "1"), Dir("d/e", 0o700), File("d/e/old", "1")),
				Layer(File("d/a", "2"), File("d/e/new", "2"), Opaque("d")),
			},
			Want: []string{`d 0700 0:0 d`, `f 0644 0:0 d/a "2"`, `d 0755 0:0 d/e`, `f 0644 0:0 d/e/new "2"`},
		}, {
			Name:   "an opaque root",
			Layers: [][]Entry{Layer(File("a", "1"), Dir("d", 0o700)), Layer(File(".wh..wh..opq", ""), File("b", "2"))},
			Want:   []string{`f 0644 0:0 b "2"`},
		}, {
			Name:   "a whiteout through a symbolic link of a lower layer",
			Layers: [][]Entry{Layer(Dir("usr/lib", 0o755), File("usr/lib/a", "1"), Symlink("lib", "usr/lib")), Layer(Whiteout("lib/a"))},
			Want:   []string{`l 0777 0:0 lib -> usr/lib`, `d 0755 0:0 usr`, `d 0755 0:0 usr/lib`},
		}, {
			Name:   "the bookkeeping of aufs is left out",
			Layers: [][]Entry{Layer(File(".wh..wh.aufs", ""), Dir(".wh..wh.plnk", 0o700), File("a", "1"))},
			Want:   []string{`f 0644 0:0 a "1"`},
		}, {
			Name:   "three layers: remove and bring back",
			Layers: [][]Entry{Layer(File("a", "1")), Layer(Whiteout("a")), Layer(File("a", "3"))},
			Want:   []string{`f 0644 0:0 a "3"`},
		},
	}
}

func replacements() []Case {
	return []Case{
		{
			Name:   "a file replaces a directory",
			Layers: [][]Entry{Layer(Dir("d", 0o755), File("d/a", "1")), Layer(File("d", "2"))},
			Want:   []string{`f 0644 0:0 d "2"`},
		}, {
			Name:   "a directory replaces a file",
			Layers: [][]Entry{Layer(File("d", "1")), Layer(Dir("d", 0o700), File("d/a", "2"))},
			Want:   []string{`d 0700 0:0 d`, `f 0644 0:0 d/a "2"`},
		}, {
			Name:   "a missing parent replaces a file of a lower layer",
			Layers: [][]Entry{Layer(File("d", "1")), Layer(File("d/a", "2"))},
			Want:   []string{`d 0755 0:0 d`, `f 0644 0:0 d/a "2"`},
		}, {
			Name:   "a symbolic link replaces a directory",
			Layers: [][]Entry{Layer(Dir("d", 0o755), File("d/a", "1"), Dir("e", 0o755)), Layer(Symlink("d", "e"))},
			Want:   []string{`l 0777 0:0 d -> e`, `d 0755 0:0 e`},
		}, {
			Name:   "a directory replaces a symbolic link and leaves its target alone",
			Layers: [][]Entry{Layer(Dir("e", 0o700), Symlink("d", "e")), Layer(Dir("d", 0o711), File("d/a", "2"))},
			Want:   []string{`d 0711 0:0 d`, `f 0644 0:0 d/a "2"`, `d 0700 0:0 e`},
		}, {
			Name:   "a file replaces a symbolic link and leaves its target alone",
			Layers: [][]Entry{Layer(File("a", "1"), Symlink("l", "a")), Layer(File("l", "2"))},
			Want:   []string{`f 0644 0:0 a "1"`, `f 0644 0:0 l "2"`},
		}, {
			Name: "directories merge and the higher layer describes them",
			Layers: [][]Entry{
				Layer(Dir("d", 0o700).Owner(1, 1).Xattr("user.old", "1").Xattr("user.both", "1"), File("d/a", "1")),
				Layer(Dir("d", 0o711).Owner(2, 2).Xattr("user.both", "2"), File("d/b", "2")),
			},
			Want: []string{`d 0711 2:2 d user.both="2"`, `f 0644 0:0 d/a "1"`, `f 0644 0:0 d/b "2"`},
		}, {
			Name:   "hard links in one layer",
			Layers: [][]Entry{Layer(File("a", "1"), Hardlink("b", "a"), Hardlink("d/c", "/b"))},
			Want:   []string{`f 0644 0:0 a "1"`, `f 0644 0:0 b = a`, `d 0755 0:0 d`, `f 0644 0:0 d/c = a`},
		}, {
			Name:   "a hard link to a file of a lower layer",
			Layers: [][]Entry{Layer(File("d/a", "1")), Layer(Hardlink("e/b", "d/a"))},
			Want:   []string{`d 0755 0:0 d`, `f 0644 0:0 d/a "1"`, `d 0755 0:0 e`, `f 0644 0:0 e/b = d/a`},
		}, {
			Name:   "a hard link keeps its content when a higher layer replaces the other name",
			Layers: [][]Entry{Layer(File("a", "1"), Hardlink("b", "a")), Layer(File("a", "2"))},
			Want:   []string{`f 0644 0:0 a "2"`, `f 0644 0:0 b "1"`},
		}, {
			Name:   "a hard link to a file that is whited out in its layer",
			Layers: [][]Entry{Layer(File("a", "1")), Layer(Hardlink("b", "a"), Whiteout("a"))},
			Want:   []string{`f 0644 0:0 b "1"`},
		}, {
			Name:   "a hard link to a symbolic link is not followed",
			Layers: [][]Entry{Layer(File("a", "1"), Symlink("l", "a"), Hardlink("m", "l"))},
			Want:   []string{`f 0644 0:0 a "1"`, `l 0777 0:0 l -> a`, `l 0777 0:0 m -> a`},
		}, {
			Name:   "the last of two entries of one name stays",
			Layers: [][]Entry{Layer(File("a", "1"), File("a", "2"))},
			Want:   []string{`f 0644 0:0 a "2"`},
		},
	}
}

func attributes() []Case {
	return []Case{
		{
			Name:   "missing parents are 0755 and root's",
			Layers: [][]Entry{Layer(File("a/b/c", "1").Owner(5, 6))},
			Want:   []string{`d 0755 0:0 a`, `d 0755 0:0 a/b`, `f 0644 5:6 a/b/c "1"`},
		}, {
			Name:   "missing parents leave a lower layer's directory as it is",
			Layers: [][]Entry{Layer(Dir("root", 0o700).Owner(3, 4).Xattr("user.x", "1")), Layer(File("root/a", "1"))},
			Want:   []string{`d 0700 3:4 root user.x="1"`, `f 0644 0:0 root/a "1"`},
		}, {
			Name:   "a directory entry after its content",
			Layers: [][]Entry{Layer(File("d/a", "1"), Dir("d", 0o1777).Owner(1, 1))},
			Want:   []string{`d 1777 1:1 d`, `f 0644 0:0 d/a "1"`},
		}, {
			Name: "set-uid, set-gid and sticky survive the change of owner",
			Layers: [][]Entry{Layer(
				File("su", "1").With(func(e *Entry) { e.Mode = 0o4755 }).Owner(0, 5),
				File("wall", "1").With(func(e *Entry) { e.Mode = 0o2755 }).Owner(9, 5),
				Dir("t", 0o1777), Dir("g", 0o2775).Owner(0, 8),
			)},
			Want: []string{`d 2775 0:8 g`, `f 4755 0:5 su "1"`, `d 1777 0:0 t`, `f 2755 9:5 wall "1"`},
		}, {
			Name: "extended attributes and file capabilities",
			Layers: [][]Entry{Layer(
				File("ping", "1").With(func(e *Entry) { e.Mode = 0o755 }).Owner(1, 1).Xattr("security.capability", capNetRaw),
				File("a", "1").Xattr("user.one", "1").Xattr("user.two", ""),
				Dir("d", 0o755).Xattr("user.d", "x"),
				Symlink("l", "a").Xattr("trusted.l", "x"),
			)},
			Want: []string{
				`f 0644 0:0 a "1" user.one="1" user.two=""`, `d 0755 0:0 d user.d="x"`, `l 0777 0:0 l -> a trusted.l="x"`,
				fmt.Sprintf(`f 0755 1:1 ping "1" security.capability=%q`, capNetRaw),
			},
		}, {
			Name:   "attributes that Linux does not know are left out",
			Layers: [][]Entry{Layer(File("a", "1").Xattr("com.apple.quarantine", "x").Xattr("user.k", "v"))},
			Want:   []string{`f 0644 0:0 a "1" user.k="v"`},
		}, {
			Name: "device nodes and pipes",
			Layers: [][]Entry{Layer(
				Device(tar.TypeChar, "null", 1, 3), Device(tar.TypeBlock, "disk", 8, far).Owner(0, 6), Device(tar.TypeFifo, "pipe", 0, 0),
			)},
			Want: []string{`b 0600 0:6 disk 8:300`, `c 0600 0:0 null 1:3`, `p 0600 0:0 pipe`},
		}, {
			Name:   "owners beyond 16 bits",
			Layers: [][]Entry{Layer(File("a", "1").Owner(65536, 3_000_000_000), Dir("d", 0o700).Owner(1<<31, 70000))},
			Want:   []string{`f 0644 65536:3000000000 a "1"`, `d 0700 2147483648:70000 d`},
		},
	}
}

func oddities() []Case {
	return []Case{
		{
			Name: "times, those of directories after their content",
			Layers: [][]Entry{
				Layer(Dir("d", 0o755).At(1000), File("d/a", "1").At(2000), Symlink("l", "d").At(3000)),
				Layer(Dir("d", 0o755).At(4000), Dir("d/e", 0o755).At(5000), File("d/e/b", "1").At(-5), File("z", "").At(5_000_000_000)),
			},
			Want: []string{
				`d 0755 0:0 d`, `f 0644 0:0 d/a "1"`, `d 0755 0:0 d/e`, `f 0644 0:0 d/e/b "1"`, `l 0777 0:0 l -> d`, `f 0644 0:0 z ""`,
			},
			Times: map[string]int64{"d": 4000, "d/a": 2000, "l": 3000, "d/e": 5000, "d/e/b": 0, "z": 1<<31 - 1},
		}, {
			Name:   "the root's own entry is left out",
			Layers: [][]Entry{Layer(Dir("./", 0o700).Owner(4, 4), File("./a", "1"))},
			Want:   []string{`f 0644 0:0 a "1"`},
		}, {
			Name: "global headers are left out",
			Layers: [][]Entry{Layer(
				Entry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}}, File("a", "1"),
			)},
			Want: []string{`f 0644 0:0 a "1"`},
		}, {
			Name:   "blocks of zeros",
			Layers: [][]Entry{Layer(File("z", strings.Repeat("\x00", 9000)+"end"), File("y", strings.Repeat("\x00", 4096)))},
			Want: []string{
				fmt.Sprintf(`f 0644 0:0 y %q`, strings.Repeat("\x00", 4096)),
				fmt.Sprintf(`f 0644 0:0 z %q`, strings.Repeat("\x00", 9000)+"end"),
			},
		}, {
			Name:   "no layer",
			Layers: [][]Entry{},
		}, {
			Name:   "an empty layer",
			Layers: [][]Entry{Layer()},
		},
	}
}

func paths() []Case {
	return []Case{
		{
			Name:   "dots, doubled and leading slashes",
			Layers: [][]Entry{Layer(File("/a", "1"), File("./b//c", "1"), File("x/../d", "1"))},
			Want:   []string{`f 0644 0:0 a "1"`, `d 0755 0:0 b`, `f 0644 0:0 b/c "1"`, `f 0644 0:0 d "1"`},
		}, {
			Name:   "leading dots stay inside",
			Layers: [][]Entry{Layer(File("../../../escape", "1"), File("/../../e/scape", "1"))},
			Want:   []string{`d 0755 0:0 e`, `f 0644 0:0 e/scape "1"`, `f 0644 0:0 escape "1"`},
		}, {
			Name:   "an absolute symbolic link leads inside",
			Layers: [][]Entry{Layer(Symlink("out", "/etc"), File("out/passwd", "1"))},
			Want:   []string{`d 0755 0:0 etc`, `f 0644 0:0 etc/passwd "1"`, `l 0777 0:0 out -> /etc`},
		}, {
			Name:   "a climbing symbolic link leads inside",
			Layers: [][]Entry{Layer(Symlink("d/out", "../../../../etc"), File("d/out/passwd", "1"), Dir("etc/x", 0o700))},
			Want: []string{
				`d 0755 0:0 d`, `l 0777 0:0 d/out -> ../../../../etc`, `d 0755 0:0 etc`, `f 0644 0:0 etc/passwd "1"`, `d 0700 0:0 etc/x`,
			},
		}, {
			Name:   "a symbolic link to the root",
			Layers: [][]Entry{Layer(Symlink("r", "/"), File("r/a", "1"), File("r/r/b", "1"))},
			Want:   []string{`f 0644 0:0 a "1"`, `f 0644 0:0 b "1"`, `l 0777 0:0 r -> /`},
		}, {
			Name:   "a hard link through a climbing symbolic link",
			Layers: [][]Entry{Layer(File("etc/a", "1"), Symlink("up", "../.."), Hardlink("b", "up/etc/a"))},
			Want:   []string{`f 0644 0:0 b "1"`, `d 0755 0:0 etc`, `f 0644 0:0 etc/a = b`, `l 0777 0:0 up -> ../..`},
		}, {
			Name:   "a file where a symbolic link is replaces the link, not what it leads to",
			Layers: [][]Entry{Layer(Symlink("l", "/etc/passwd")), Layer(File("l", "1"))},
			Want:   []string{`f 0644 0:0 l "1"`},
		}, {
			Name:   "a missing parent behind a dangling symbolic link",
			Layers: [][]Entry{Layer(Symlink("var/run", "../srv/here"), Symlink("a", "b"), Symlink("b", "c/d")), Layer(File("var/run/pid", "1"), File("a/e", "1"))},
			Want: []string{
				`l 0777 0:0 a -> b`, `l 0777 0:0 b -> c/d`, `d 0755 0:0 c`, `d 0755 0:0 c/d`, `f 0644 0:0 c/d/e "1"`,
				`d 0755 0:0 srv`, `d 0755 0:0 srv/here`, `f 0644 0:0 srv/here/pid "1"`,
				`d 0755 0:0 var`, `l 0777 0:0 var/run -> ../srv/here`,
			},
		}, {
			Name:   "long names",
			Layers: [][]Entry{Layer(File(long255, "1"), Symlink("l", strings.Repeat("t", 1000)))},
			Want:   []string{`l 0777 0:0 l -> ` + strings.Repeat("t", 1000), `f 0644 0:0 ` + long255 + ` "1"`},
		}, {
			Name:   "long paths",
			Layers: [][]Entry{Layer(File(deep+"file", "deep"))},
			Want:   deepDirs(),
		}, {
			Name:   "names of any bytes",
			Layers: [][]Entry{Layer(File("ünï-\U0001f41d", "1"), File("line\nbreak", "1"), File("blank blank", "1"), File(`q"uote\`, "1"))},
			Want: []string{
				`f 0644 0:0 ` + Quote("ünï-\U0001f41d") + ` "1"`, `f 0644 0:0 ` + Quote("line\nbreak") + ` "1"`,
				`f 0644 0:0 ` + Quote("blank blank") + ` "1"`, `f 0644 0:0 ` + Quote(`q"uote\`) + ` "1"`,
			},
		}, {
			Name:   "a name that begins like a whiteout's",
			Layers: [][]Entry{Layer(File(".white", "1"), File("a.wh.b", "1"))},
			Want:   []string{`f 0644 0:0 .white "1"`, `f 0644 0:0 a.wh.b "1"`},
		},
	}
}
