package blackout

import (
	"maps"
	"slices"
)

const pageSize = 4 << 10

// page is what is in one page of a file. It is never changed once it is in a
// content, so contents may share it.
type page [pageSize]byte

// content is what is in a file: pages by number, and nothing in the holes.
type content struct {
	size  int64
	pages map[int64]*page
}

func (c *content) clone() *content {
	if c == nil {
		return &content{}
	}
	return &content{c.size, maps.Clone(c.pages)}
}

func (c *content) read(b []byte, off int64) int {
	n := int(max(0, min(int64(len(b)), c.size-off)))
	for done := 0; done < n; {
		at := off + int64(done)
		part := b[done:min(n, done+pageSize-int(at%pageSize))]
		if p := c.pages[at/pageSize]; p != nil {
			copy(part, p[at%pageSize:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	return n
}

func (c *content) write(b []byte, off int64) {
	c.size = max(c.size, off+int64(len(b)))
	for len(b) > 0 {
		n := c.change(off, b)
		b, off = b[n:], off+int64(n)
	}
}

// change puts into the page at off what fits into it.
func (c *content) change(off int64, b []byte) int {
	p := new(page)
	if old := c.pages[off/pageSize]; old != nil {
		*p = *old
	}
	n := copy(p[off%pageSize:], b)
	if c.pages == nil {
		c.pages = map[int64]*page{}
	}
	c.pages[off/pageSize] = p
	return n
}

func (c *content) truncate(size int64) {
	if size < c.size {
		c.punch(size, c.size-size)
	}
	c.size = size
}

// punch makes a hole of what lies below the end of the file.
func (c *content) punch(off, length int64) {
	end := min(off+length, c.size)
	for off < end {
		n := min(end-off, pageSize-off%pageSize)
		switch {
		case c.pages[off/pageSize] == nil:
		case n == pageSize || off%pageSize == 0 && end == c.size:
			delete(c.pages, off/pageSize)
		default:
			c.change(off, make([]byte, n))
		}
		off += n
	}
}

// data lists the numbers of the pages that are no holes, ascending.
func (c *content) data() []int64 { return slices.Sorted(maps.Keys(c.pages)) }

// seek finds the next data, or the next hole, at or behind off; false if there is
// none. The end of the file is a hole.
func (c *content) seek(off int64, hole bool) (int64, bool) {
	if off >= c.size {
		return 0, false
	}
	if hole {
		for n := off / pageSize; ; n++ {
			if c.pages[n] == nil || n*pageSize >= c.size {
				return min(max(off, n*pageSize), c.size), true
			}
		}
	}
	for _, n := range c.data() {
		if n >= off/pageSize {
			return max(off, n*pageSize), true
		}
	}
	return 0, false
}
