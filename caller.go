package dayfly

import "context"

// DefaultNamespace is where workspaces are that name no other. It is always
// there.
const DefaultNamespace = "default"

// Caller is who asks. The zero value is the host's own user, who may do
// everything: whoever reaches a server's private socket.
type Caller struct {
	Key       string // id of the API key; empty: the host's own user
	Namespace string // what the caller is bound to, or has chosen; empty: all of them
	Bound     bool   // to Namespace: everything else is not there for it
	Workspace ID     // of a workspace token: all that it may reach
	From      string // remote address, for the audit log
	Request   string // id of the request, as in the server's log
	Once      string // idempotency key of a request that makes something; empty: it is new each time
}

// Admin reports whether the caller may manage the host: images, keys, namespaces.
func (c Caller) Admin() bool { return !c.Bound && c.Workspace == "" }

// Sees reports whether a workspace is there for the caller.
func (c Caller) Sees(ws Workspace) bool {
	return (!c.Bound || c.Namespace == ws.Namespace) && (c.Workspace == "" || c.Workspace == ws.ID)
}

// Home is the namespace that what the caller makes belongs to.
func (c Caller) Home() string {
	if c.Namespace == "" {
		return DefaultNamespace
	}
	return c.Namespace
}

type callerKey struct{}

// WithCaller returns a context of a request by c.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf returns who asks; without WithCaller, the host's own user.
func CallerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}
