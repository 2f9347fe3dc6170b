package postgres

import (
	"context"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// ask runs statements, by a connection of its own, and returns the number that
// the last one reads.
func ask(t *testing.T, url string, statements ...string) int {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	last := len(statements) - 1
	for _, st := range statements[:last] {
		if _, err := conn.Exec(t.Context(), st); err != nil {
			t.Fatal(err)
		}
	}
	var n int
	if err := conn.QueryRow(t.Context(), statements[last]).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestServerIsTheSameAfterARestart(t *testing.T) {
	t.Parallel()
	s := Start(t)
	url := s.Database(t)
	ask(t, url, "CREATE TABLE kept (n INT)", "INSERT INTO kept VALUES (7)", "SELECT n FROM kept")
	s.Restart(t)
	if n := ask(t, url, "SELECT n FROM kept"); n != 7 {
		t.Fatalf("after a restart the row is %d, not 7", n)
	}
}

func TestDatabasesOfTestsAreApart(t *testing.T) {
	t.Parallel()
	s := Shared(t)
	if a, b := s.Database(t), s.Database(t); a == b {
		t.Fatalf("two tests got the same database %s", a)
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	t.Parallel()
	var dir string
	t.Run("life", func(t *testing.T) { dir = Start(t).dir })
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Fatalf("%s is left behind", dir)
	}
}
