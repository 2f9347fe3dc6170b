package dayfly

import "time"

// Image is an OCI image whose root file system is prepared on this host.
type Image struct {
	Name      string      `json:"name"`       // as the user names it
	Digest    string      `json:"digest"`     // of the platform's manifest, sha256:…
	Platform  string      `json:"platform"`   // os/arch[/variant]
	Size      int64       `json:"size"`       // bytes the prepared root file system takes on disk
	CreatedAt time.Time   `json:"created_at"` // when the image was built, by its own word
	Config    ImageConfig `json:"config,omitzero"`
}

// ImageConfig is the part of an OCI image's configuration that Dayfly honours.
type ImageConfig struct {
	Env          []string `json:"env,omitempty"` // K=V
	Entrypoint   []string `json:"entrypoint,omitempty"`
	Cmd          []string `json:"cmd,omitempty"`
	User         string   `json:"user,omitempty"` // name, uid, name:group or uid:gid
	Workdir      string   `json:"workdir,omitempty"`
	ExposedPorts []string `json:"exposed_ports,omitempty"` // 80/tcp
	StopSignal   string   `json:"stop_signal,omitempty"`
}

// Progress is one report of long work: a step by name and how far it is.
type Progress struct {
	Step  string `json:"step"`            // what is being done, such as a layer's short digest
	Done  int64  `json:"done,omitempty"`  // bytes
	Total int64  `json:"total,omitempty"` // bytes; 0 where unknown
}
