package node

import (
	"context"
	"slices"

	"github.com/dayfly/dayfly"
)

// Ours lists the workspaces that this process owns, and those at rest, which
// nobody needs to: all but what another process starts or runs. Oldest first.
func (n *Node) Ours(ctx context.Context) ([]dayfly.Workspace, error) {
	list, err := n.List(ctx)
	return slices.DeleteFunc(list, func(ws dayfly.Workspace) bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		busy := ws.State == dayfly.Creating || ws.State == dayfly.Running
		return busy && n.own[ws.ID] == nil
	}), err
}
