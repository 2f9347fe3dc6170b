package control

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
)

const tokenPrefix = "dft_"

// claim is what a token says: dft_, the claim in base64url, a dot, and the
// HMAC-SHA256 of both, in base64url.
type claim struct {
	Workspace dayfly.ID `json:"w"`
	Namespace string    `json:"n"`
	Expires   int64     `json:"e"` // Unix seconds
}

// CreateToken makes a right to use one workspace for a while: its guest, its log,
// metrics and events, and to keep it alive. It ends with the workspace.
func (c *Control) CreateToken(ctx context.Context, id dayfly.ID, life time.Duration) (dayfly.Token, error) {
	k, err := c.manage(ctx, id)
	if err != nil {
		return dayfly.Token{}, err
	}
	if life < time.Second || life > dayfly.MaxTokenLife {
		return dayfly.Token{}, dayfly.Errorf(dayfly.Invalid, "the life of a token is %s: use 1s to %s", life, dayfly.MaxTokenLife)
	}
	if len(c.opt.TokenKey) < sha256.Size {
		return dayfly.Token{}, dayfly.Errorf(dayfly.Unavailable, "this server has no key to sign tokens with")
	}
	at := c.now().Add(life).Truncate(time.Second)
	payload, err := json.Marshal(claim{id, k.view.Load().Namespace, at.Unix()})
	if err != nil {
		return dayfly.Token{}, err
	}
	text := tokenPrefix + base64.RawURLEncoding.EncodeToString(payload)
	return dayfly.Token{Token: text + "." + base64.RawURLEncoding.EncodeToString(c.sign(text)), Workspace: id, ExpiresAt: at}, nil
}

func (c *Control) sign(text string) []byte {
	mac := hmac.New(sha256.New, c.opt.TokenKey)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// byToken checks a token's signature before it reads anything of it.
func (c *Control) byToken(token string) (dayfly.Caller, <-chan struct{}, error) {
	cl, ok := c.readToken(token)
	if !ok {
		return dayfly.Caller{}, nil, errNoKey()
	}
	if err := c.open(); err != nil {
		return dayfly.Caller{}, nil, err
	}
	now := c.now()
	left := time.Unix(cl.Expires, 0).Sub(now)
	k := c.keeperOf(cl.Workspace)
	if k == nil || left <= 0 || k.view.Load().Namespace != cl.Namespace {
		return dayfly.Caller{}, nil, errNoKey()
	}
	caller := dayfly.Caller{Namespace: cl.Namespace, Bound: true, Workspace: cl.Workspace}
	return caller, c.life.ofToken(token, cl.Workspace, left), nil
}

func (c *Control) readToken(token string) (claim, bool) {
	text, signature, ok := strings.Cut(token, ".")
	mac, err := base64.RawURLEncoding.DecodeString(signature)
	if !ok || err != nil || len(c.opt.TokenKey) < sha256.Size || !hmac.Equal(mac, c.sign(text)) {
		return claim{}, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(text, tokenPrefix))
	var cl claim
	return cl, err == nil && json.Unmarshal(payload, &cl) == nil
}
