package jail

import "testing"

func TestSmoke(t *testing.T) {
	p := openPool(t, testOptions(t))
	t.Log("lacks", p.Lacks())
	j := take(t, p, Spec{Shape: self(t)})
	out, exit := output(t, j, Command{Args: []string{"x", probeMark, "hello"}})
	t.Log(out, exit, exit.Err())
	if out != "[hello]" {
		t.Fatal("no")
	}
}
