package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// hostError says what the host's part in a failure is and what to do about it.
// Errors that speak for themselves pass.
func (s *Store) hostError(doing string, err error) error {
	var e *dayfly.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		e = dayfly.Errorf(dayfly.Exhausted, "%s: no space left on the disk of the image store; nothing of it was kept: "+
			"free some space there, or remove images (dayfly image ls, dayfly image rm), and repeat", doing)
	case errors.Is(err, unix.EROFS):
		e = dayfly.Errorf(dayfly.Unavailable, "%s: the disk of the image store is read-only: use another state directory", doing)
	case errors.Is(err, fs.ErrPermission):
		e = dayfly.Errorf(dayfly.Denied, "%s: the image store may not be written by this user: run as root, or choose another state directory", doing)
	default:
		return fmt.Errorf("image: %s: %w", doing, err)
	}
	e.Err = err
	return e
}

// within leads the message of an error with what it happened in.
func within(what string, err error) error {
	var e *dayfly.Error
	if err == nil || !errors.As(err, &e) {
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	}
	led := *e
	led.Msg = what + ": " + led.Msg
	return &led
}

// clip shows text that others may have had a hand in, such as an error that
// quotes their JSON: bounded, and without control characters.
func clip(text any) string {
	const most = 200
	s := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '�'
	}, fmt.Sprint(text))
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

func exceeded(what, limit string, is, bound any) error {
	return dayfly.Errorf(dayfly.Exhausted, "%s: limit exceeded: %s: %v, at most %v", what, limit, is, bound)
}
