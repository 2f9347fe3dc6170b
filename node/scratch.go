package node

import (
	"os"

	"github.com/dayfly/dayfly"
)

// scratch is a directory for a machine that is no workspace. It has the place
// and the lock of one, but no record, so that a sweep clears it away with the
// machine if this process dies.
type scratch struct {
	id   dayfly.ID
	dir  string
	lock *lock
}

func (n *Node) newScratch() (*scratch, error) {
	id := dayfly.NewID()
	lock, err := lockNew(n.Dir, id)
	if err != nil {
		return nil, err
	}
	s := &scratch{id, workspaceDir(n.Dir, id), lock}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		lock.release()
		return nil, noSpace(err)
	}
	return s, nil
}

// remove leaves nothing of it. The machine must have ended.
func (s *scratch) remove() error {
	err := os.RemoveAll(s.dir)
	s.lock.release()
	return err
}
