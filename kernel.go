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
	Subject string `json:"subject,omitempty"` // what it is about: checks of one subject are shown together
	Name    string `json:"name"`              // one word, for ever the same
	Status  Status `json:"status"`
	Detail  string `json:"detail"`           // what was found
	Cost    string `json:"cost,omitempty"`   // what a lack costs, in numbers where they are known
	Remedy  string `json:"remedy,omitempty"` // what to do about a lack: a command, if there is one
}

// Status is the verdict of a Check.
type Status string

// The verdicts: Good, usable with a drawback, or without it nothing runs.
const (
	Good    Status = "good"
	Lacking Status = "lacking"
	Broken  Status = "broken"
)
