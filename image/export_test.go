package image

// FillMounted lets the kernel fill every root file system, as it otherwise
// does for those with a wide directory.
func (s *Store) FillMounted() { s.wide = 0 }
