package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/boot"
	"github.com/dayfly/dayfly/guest/wire"
	"github.com/dayfly/dayfly/vmm/fake"
)

// mind is what a fake guest has in its RAM.
type mind struct {
	ID, Name   string
	Generation string // of the last Renew
	Inited     bool
	Frozen     bool
	Resting    bool
	Note       string // what a test last asked it to remember; its disk has the same
	Disk       string // only in answers: what its disk has
}

// noteAt is where a fake guest keeps its note on its disk.
const (
	noteAt, noteLen = 32 << 10, 64
	noteMark        = "dayfly-note "
)

// inside is an agent in a fake machine.
type inside struct {
	fake.Inside
	w   *world
	off chan struct{}

	mu   sync.Mutex
	over bool // the RAM is gone
}

// guest is what runs in a fake machine.
func (w *world) guest(ctx context.Context, in fake.Inside) error {
	if w.silent {
		<-ctx.Done()
		return nil
	}
	if w.fails("boot") != nil {
		return errBoom
	}
	g := &inside{Inside: in, w: w, off: make(chan struct{}, 1)}
	sessions := boot.NewSessions(g.mux())
	defer sessions.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := in.Port.Accept()
			if err != nil {
				return
			}
			_ = sessions.Serve(conn, func() wire.Hello { return wire.Hello{Dayfly: wire.ProtocolVersion} })
		}
	}()
	select {
	case <-g.off:
	case <-ctx.Done():
		<-served
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	return nil
}

// think changes what the guest has in mind, and answers with what do returns.
func think[In any](g *inside, path string, do func(*mind, In) (any, int)) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		var in In
		_ = json.NewDecoder(r.Body).Decode(&in)
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.over {
			return
		}
		if err := g.w.fails(path); err != nil {
			http.Error(rw, err.Error(), http.StatusInternalServerError)
			return
		}
		m := g.load()
		reply, status := do(&m, in)
		g.keep(m)
		if heard := g.w.heard.Load(); heard != nil {
			(*heard)(path)
		}
		rw.WriteHeader(status)
		_ = json.NewEncoder(rw).Encode(reply)
	}
}

func (g *inside) load() (m mind) {
	n := binary.BigEndian.Uint32(g.RAM)
	_ = json.Unmarshal(g.RAM[4:4+n], &m)
	return m
}

func (g *inside) keep(m mind) {
	b, _ := json.Marshal(m)
	binary.BigEndian.PutUint32(g.RAM, uint32(len(b)))
	copy(g.RAM[4:], b)
}

// disk opens the guest's disk.
func (g *inside) disk() (*os.File, error) {
	d, err := g.Drive(writable)
	if err != nil {
		return nil, err
	}
	return os.OpenFile(d.Path, os.O_RDWR, 0)
}

func (g *inside) mux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.InitPath, think(g, wire.InitPath, g.init))
	mux.HandleFunc("POST "+wire.PoweroffPath, think(g, wire.PoweroffPath, func(*mind, any) (any, int) {
		g.off <- struct{}{}
		return nil, http.StatusOK
	}))
	mux.HandleFunc("POST "+wire.FreezePath, think(g, wire.FreezePath, func(m *mind, _ any) (any, int) {
		m.Frozen = true
		return wire.FreezeReply{Processes: 1}, http.StatusOK
	}))
	mux.HandleFunc("POST "+wire.ThawPath, think(g, wire.ThawPath, func(m *mind, _ any) (any, int) {
		m.Frozen = false
		return nil, http.StatusOK
	}))
	mux.HandleFunc("POST "+wire.RestPath, think(g, wire.RestPath, func(m *mind, _ any) (any, int) {
		m.Resting = true
		return nil, http.StatusOK
	}))
	mux.HandleFunc("POST "+wire.RenewPath, think(g, wire.RenewPath, g.renew))
	mux.HandleFunc("POST "+wire.RehearsePath, think(g, wire.RehearsePath, func(*mind, wire.Rehearse) (any, int) {
		return wire.RehearseReply{}, http.StatusOK
	}))
	mux.HandleFunc("POST /note", think(g, "/note", g.note))
	mux.HandleFunc("POST /mind", think(g, "/mind", func(m *mind, _ any) (any, int) {
		reply := *m
		b := make([]byte, noteLen)
		if f, err := g.disk(); err == nil {
			_, _ = f.ReadAt(b, noteAt)
			_ = f.Close()
		}
		if text, ok := strings.CutPrefix(string(b), noteMark); ok { // else there is none yet
			reply.Disk = strings.TrimRight(text, "\x00")
		}
		return reply, http.StatusOK
	}))
	return mux
}

// note remembers a word in RAM and on the disk.
func (g *inside) note(m *mind, word string) (any, int) {
	if m.Frozen || !m.Inited {
		return "frozen", http.StatusConflict
	}
	f, err := g.disk()
	if err != nil {
		return err.Error(), http.StatusInternalServerError
	}
	defer f.Close()
	if links(f.Name()) > 1 {
		g.w.sin("%s is written, which has another link", f.Name())
	}
	b := make([]byte, noteLen)
	copy(b, noteMark+word)
	if _, err = f.WriteAt(b, noteAt); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return err.Error(), http.StatusInternalServerError
	}
	m.Note = word
	return "", http.StatusOK
}

func (g *inside) init(m *mind, in wire.Init) (any, int) {
	reply, status := g.w.init(in)
	reply.Confirmed = append(reply.Confirmed, confirmed(in)...)
	m.ID, m.Name, m.Inited = in.ID, in.Hostname, true
	return reply, status
}

func (g *inside) renew(m *mind, in wire.Renew) (any, int) {
	if len(in.DiskKey) == 0 && !m.Frozen {
		g.w.sin("a copy of %s was not frozen when it was renewed", m.ID)
	}
	m.Generation, m.Resting, m.Inited = in.Generation, false, true
	if in.Identity == wire.IdentityNew {
		m.ID, m.Name = in.ID, in.Hostname
	}
	var all []wire.Confirmation
	for _, name := range wire.RequiredConfirmations() {
		if no := g.w.withhold.Load(); no != nil && *no == name {
			continue
		}
		all = append(all, wire.Confirmation{Name: name, Value: renewed(name, in)})
	}
	return wire.RenewReply{Confirmed: all}, http.StatusOK
}

// renewed is what an agent says of a step of a Renew that it has done.
func renewed(step string, in wire.Renew) string {
	switch step {
	case wire.StepEntropy:
		return fmt.Sprintf("%d bytes", len(in.Entropy))
	case wire.StepClock:
		return in.Timestamp
	case wire.StepHostname:
		return wire.HostName(in.Hostname, in.ID)
	case wire.StepGeneration:
		return in.Generation
	case wire.StepDiskKey:
		if len(in.DiskKey) > 0 {
			return "set"
		}
		return "kept"
	}
	return "1"
}

// confirmed is what an agent says that has done all of an Init.
func confirmed(in wire.Init) []wire.Confirmation {
	return []wire.Confirmation{
		{Name: wire.StepEntropy, Value: fmt.Sprintf("%d bytes", len(in.Entropy))},
		{Name: wire.StepClock, Value: in.Timestamp},
		{Name: wire.StepHostname, Value: wire.HostName(in.Hostname, in.ID)},
		{Name: wire.StepMachineID, Value: "0123456789abcdef0123456789abcdef"},
	}
}

// tell posts to the agent of a workspace, as a client would.
func tell(ctx context.Context, n *Node, id dayfly.ID, path string, in, out any) error {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return n.Dial(ctx, id, wire.AgentPort)
	}}
	defer tr.CloseIdleConnections()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://guest"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the agent answered %d %q, %w", resp.StatusCode, b, err)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// write has a guest remember a note, in memory and on its disk.
func (w *world) write(t *testing.T, n *Node, id dayfly.ID, note string) {
	t.Helper()
	if err := tell(t.Context(), n, id, "/note", note, nil); err != nil {
		t.Fatal(err)
	}
}

// read returns what a guest has in mind.
func (w *world) read(t *testing.T, n *Node, id dayfly.ID) (m mind) {
	t.Helper()
	if err := tell(t.Context(), n, id, "/mind", nil, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// crash makes the VMM of the last machine die.
func (w *world) crash(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	last := w.machines[len(w.machines)-1]
	w.mu.Unlock()
	if err := fake.Crash(last); err != nil {
		t.Fatal(err)
	}
	<-last.Done()
}
