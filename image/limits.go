package image

import "github.com/dayfly/dayfly/image/layer"

// Limits bound what an image may ask of this host. A zero field stands for its
// default. A breach is an Exhausted error that names the limit.
type Limits struct {
	layer.Limits // what the layers may put into the tree

	Layers        int   // default 256; container engines stop at 127
	ManifestBytes int64 // of a manifest, an index, or a config; default 4 MiB, as registries allow
	LayerBytes    int64 // of one layer, unpacked; default 32 GiB
	ImageBytes    int64 // of all layers, unpacked, and of an archive; default 64 GiB

	// Ratio is how many times its size a compressed stream may grow, once it
	// has grown beyond RatioFloor bytes. Ordinary layers stay under 10; gzip
	// cannot exceed 1032. Defaults 200 and 256 MiB.
	Ratio      int64
	RatioFloor int64
}

// DefaultLimits are the limits of a Store opened without any.
var DefaultLimits = Limits{
	Limits:        layer.DefaultLimits,
	Layers:        256,
	ManifestBytes: 4 << 20,
	LayerBytes:    32 << 30,
	ImageBytes:    64 << 30,
	Ratio:         200,
	RatioFloor:    256 << 20,
}

// Normal returns l with its defaults filled in.
func (l Limits) Normal() Limits {
	d := DefaultLimits
	l.Limits = l.Limits.Normal()
	l.Layers = orDefault(l.Layers, d.Layers)
	l.ManifestBytes = orDefault(l.ManifestBytes, d.ManifestBytes)
	l.LayerBytes = orDefault(l.LayerBytes, d.LayerBytes)
	l.ImageBytes = orDefault(l.ImageBytes, d.ImageBytes)
	l.Ratio = orDefault(l.Ratio, d.Ratio)
	l.RatioFloor = orDefault(l.RatioFloor, d.RatioFloor)
	return l
}

func orDefault[T int | int64](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}
