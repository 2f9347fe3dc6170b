package main

import (
	"strings"
	"testing"

	"github.com/dayfly/dayfly"
)

var someChecks = []dayfly.Check{
	{Subject: "machines", Name: "vmm", Status: dayfly.Good, Detail: "fake"},
	{Subject: "memory", Name: "swap", Status: dayfly.Lacking, Detail: "a\x1b[2Jb", Cost: "much", Remedy: "swapoff -a"},
	{Subject: "machines", Name: "kvm", Status: dayfly.Broken, Detail: "no"},
	{Name: "other", Status: "novel", Detail: "of a newer server"},
}

func TestDoctorGroupsBySubject(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := (verdicts{}).print(&b, someChecks); err != nil {
		t.Fatal(err)
	}
	const want = `machines
✓ vmm     fake
✗ kvm     no

memory
! swap    a?[2Jb
          costs: much
          → swapoff -a

? other   of a newer server

1 good, 1 usable with a drawback, 1 broken
`
	if b.String() != want {
		t.Errorf("printed:\n%s\nwant:\n%s", b.String(), want)
	}
}

func TestDoctorColoursOnTerminalsAlone(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if newVerdicts(&b, func(string) (string, bool) { return "", false }).colours {
		t.Error("what is no terminal gets colours")
	}
	if err := (verdicts{colours: true}).print(&b, someChecks); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "\x1b[31m✗\x1b[0m kvm ") {
		t.Errorf("printed %q, without a red mark", b.String())
	}
}

func TestDoctorExitCodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status        dayfly.Status
		unfit, strict bool
	}{{dayfly.Good, false, false}, {dayfly.Lacking, false, true}, {dayfly.Broken, true, true}} {
		list := []dayfly.Check{{Status: dayfly.Good}, {Status: c.status}}
		if unfit(list, false) != c.unfit || unfit(list, true) != c.strict {
			t.Errorf("%s: unfit %v, strictly %v, want %v, %v", c.status, unfit(list, false), unfit(list, true), c.unfit, c.strict)
		}
	}
}
