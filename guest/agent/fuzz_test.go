package agent

import (
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAccountFilesAreReadAsTheyAre(t *testing.T) {
	t.Parallel()
	passwd := parsePasswd([]byte("root:x:0:0:root:/root:/bin/bash\n# comment\nbad\nuser:x:1000:1001:,,,:/home/user:/bin/sh\r\n" +
		"neg:x:-1:0::/:/\nbig:x:4294967296:0::/:/\nnohome:x:5:5::relative:\n+nis:x:1:1::/:/\nlast:x:7:7::/l:/bin/sh"))
	want := []passwdEntry{{"root", 0, 0, "/root"}, {"user", 1000, 1001, "/home/user"}, {"nohome", 5, 5, "/"}, {"last", 7, 7, "/l"}}
	if !slices.Equal(passwd, want) {
		t.Errorf("got %+v", passwd)
	}
	a := accounts{}
	a.passwd.lines = passwd
	a.group.lines = parseGroup([]byte("root:x:0:\nuser:x:1001:\nsudo:x:27:other,user\ndocker:x:99:user\nodd:x:user\n"))
	acc, err := a.user("user")
	if diff := cmp.Diff(account{"user", 1000, 1001, []uint32{27, 99}, "/home/user"}, acc, cmp.AllowUnexported(account{})); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	if gid, err := a.groupID("sudo"); err != nil || gid != 27 {
		t.Errorf("got %d, %v", gid, err)
	}
}

func FuzzAccounts(f *testing.F) {
	f.Add([]byte("root:x:0:0:root:/root:/bin/bash\nuser:x:1:1::/h:\n"), []byte("g:x:1:user,root\n"), "user:g")
	f.Add([]byte(":::::::\n\x00:x:1:1::/:\n"), []byte("::::"), "0:0")
	f.Fuzz(func(t *testing.T, passwd, group []byte, spec string) {
		var a accounts
		a.passwd.lines, a.group.lines = parsePasswd(passwd), parseGroup(group)
		name, g, _ := strings.Cut(spec, ":")
		acc, err := a.user(name)
		if err == nil && (acc.uid == 1<<32-1 || !filepath.IsAbs(acc.home) || strings.ContainsRune(acc.home, 0)) {
			t.Errorf("%q is %+v", name, acc)
		}
		if gid, err := a.groupID(g); err == nil && gid == 1<<32-1 {
			t.Errorf("%q is %d", g, gid)
		}
	})
}

func FuzzDisposition(f *testing.F) {
	f.Add(`form-data; name="file"; filename="/a/b.txt"`)
	f.Add(`form-data; name=file; filename*=UTF-8''%2fa%2fb`)
	f.Add(`form-data; filename="\"..\\x`)
	f.Fuzz(func(t *testing.T, header string) {
		_, fileName, err := disposition(header)
		if err != nil || fileName == "" {
			return
		}
		path, err := new(state).resolve(account{home: "/home/u"}, fileName)
		if err == nil && (!filepath.IsAbs(path) || path != filepath.Clean(path)) {
			t.Errorf("%q leads to %q", header, path)
		}
	})
}

func FuzzSignature(f *testing.F) {
	f.Add("path=/f&signature=v1_x&signature_expiration=1&username=u", "token")
	f.Fuzz(func(t *testing.T, query, token string) {
		q, err := url.ParseQuery(query)
		if err != nil || token == "" {
			return
		}
		if err := checkSignature(q, "read", token, time.Unix(1000, 0)); err == nil {
			t.Errorf("%q passes without the token", query) // it would have to break SHA-256
		}
		q.Del("signature_expiration")
		q.Set("signature", sign(q.Get("path"), "read", q.Get("username"), token, nil))
		if err := checkSignature(q, "read", token, time.Unix(1000, 0)); err != nil {
			t.Errorf("%q: %v", query, err)
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"", "~", "~/x", "~x", "../..", "/a/./b//", "a\x00b"} {
		f.Add(s, "/w")
	}
	f.Fuzz(func(t *testing.T, path, workdir string) {
		got, err := (&state{workdir: workdir}).resolve(account{home: "/home/u"}, path)
		if err == nil && (!filepath.IsAbs(got) || got != filepath.Clean(got) || strings.ContainsRune(path, 0)) {
			t.Errorf("%q leads to %q", path, got)
		}
	})
}

func FuzzAcceptEncoding(f *testing.F) {
	f.Add("gzip;q=0.5, *;q=0")
	f.Fuzz(func(t *testing.T, v string) {
		coding, err := chooseCoding(http.Header{"Accept-Encoding": {v}})
		if err == nil && coding == "gzip" && !strings.Contains(strings.ToLower(v), "gzip") && !strings.Contains(v, "*") {
			t.Errorf("%q asks for no gzip", v)
		}
	})
}
