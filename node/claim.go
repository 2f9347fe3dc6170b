package node

import (
	"context"
	"os"
	"path/filepath"

	"github.com/dayfly/dayfly/vmm"
)

// dropSpare ends the standby machine, whose directory is the workspace's.
func (s *start) dropSpare() error {
	if s.spare == nil {
		return nil
	}
	spare := s.spare
	s.spare = nil
	return spare.end()
}

// claim gives the standby machine the root and the disk of the workspace.
func (s *start) claim(ctx context.Context) error {
	m := s.spare.machine
	if !s.spare.prepared() { // else it has the root
		if err := m.SetDrive(ctx, readable, vmm.Drive{Path: s.parts.lease.Path}); err != nil {
			return err
		}
	}
	if err := m.SetDrive(ctx, writable, vmm.Drive{Path: filepath.Join(s.w.dir, diskFile)}); err != nil {
		return err
	}
	setNice(m.PID(), 0)
	if err := m.Resume(ctx); err != nil {
		return err
	}
	if s.spare.lease != nil {
		if err := s.spare.lease.Close(); err != nil { // the workspace has one of its own
			return err
		}
		s.spare.lease = nil
	}
	if err := os.RemoveAll(s.spare.props); err != nil {
		return err
	}
	s.parts.machine, s.parts.cell, s.parts.session, s.parts.memory = s.spare.machine, s.spare.cell, s.spare.session, s.spare.memory
	return nil
}
