package dayfly

// Kernel is a guest kernel that this host can boot.
type Kernel struct {
	ID        string `json:"id"`        // release and a digest of its content
	Release   string `json:"release"`   // what uname -r says
	Flavour   string `json:"flavour"`   // "tuned" or "distribution"
	Preferred bool   `json:"preferred"` // used when none is named
	Size      int64  `json:"size"`      // bytes of the uncompressed kernel
}

// Check is one line of dayfly doctor: what this host can do.
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail"`           // what was found
	Remedy string `json:"remedy,omitempty"` // what to do about a lack
}

// Status is the verdict of a Check.
type Status string

// The verdicts: Good, usable with a drawback, or without it nothing runs.
const (
	Good    Status = "good"
	Lacking Status = "lacking"
	Broken  Status = "broken"
)
