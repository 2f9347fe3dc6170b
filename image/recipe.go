package image

import (
	"embed"
	"encoding/json"
	"slices"
	"strings"

	"github.com/dayfly/dayfly"
)

// Recipe says how to make an image from Debian packages.
type Recipe struct {
	Name     string             `json:"name"`    // what the image is called
	Suite    string             `json:"suite"`   // release of Debian
	Variant  string             `json:"variant"` // of mmdebstrap
	Packages []string           `json:"packages"`
	Exclude  []string           `json:"exclude"` // paths that dpkg leaves out
	Include  []string           `json:"include"` // exceptions from Exclude
	Config   dayfly.ImageConfig `json:"config"`

	// Setup is a shell script that finishes the root file system in $1. It
	// runs on the host, as root.
	Setup string `json:"-"`
}

//go:embed base/recipe.json base/setup.sh
var baseFiles embed.FS

// BaseRecipe is the recipe of the image base: a minimal Debian with a shell,
// Python, git and the user "user", who may become root.
func BaseRecipe() Recipe {
	var r Recipe
	raw, err := baseFiles.ReadFile("base/recipe.json")
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		panic("image: the embedded recipe is broken: " + err.Error())
	}
	setup, err := baseFiles.ReadFile("base/setup.sh")
	if err != nil {
		panic("image: the embedded recipe is broken: " + err.Error())
	}
	r.Setup = string(setup)
	return r
}

// check refuses what mmdebstrap would take for something else.
func (r Recipe) check() error {
	if r.Name == "" || r.Suite == "" || r.Variant == "" {
		return dayfly.Errorf(dayfly.Invalid, "recipe: name, suite and variant must be given")
	}
	words := slices.Concat([]string{r.Suite, r.Variant}, r.Packages, r.Exclude, r.Include)
	for _, w := range words {
		if w == "" || w[0] == '-' || strings.ContainsAny(w, " ,'\"\n") {
			return dayfly.Errorf(dayfly.Invalid, "recipe %s: %q is not a single word", r.Name, w)
		}
	}
	return nil
}
