package plainjson_test

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// every has a member of each kind that an event is likely to have, and some that it is not.
type every struct {
	inner
	Text     string            `json:"text"`
	Int      int64             `json:"int"`
	Small    int8              `json:"small,omitempty"`
	Uint     uint64            `json:"uint"`
	Byte     uint8             `json:"byte"`
	Float    float64           `json:"float"`
	Float32  float32           `json:"float32"`
	Bool     bool              `json:"bool"`
	Time     time.Time         `json:"time,omitzero"`
	ID       uuid.UUID         `json:"id"`
	Named    named             `json:"named"`
	Pointer  *string           `json:"pointer"`
	Pointers **inner           `json:"pointers"`
	List     []inner           `json:"list"`
	Lists    [][]string        `json:"lists"`
	Map      map[string]int32  `json:"map"`
	Maps     map[named][]inner `json:"maps"`
	Self     *every            `json:"self"`
	NoTag    string
	Under_   string              `json:"under_score"`
	Dash     string              `json:"da-sh"`
	Method   method              `json:"method"`
	Methods  []*method           `json:"methods"`
	TextM    textMethod          `json:"textmethod"`
	TextPs   map[string]*upper   `json:"textps"`
	Any      any                 `json:"any"`
	AnyMap   map[string]any      `json:"anymap"`
	Number   json.Number         `json:"number"`
	Raw      json.RawMessage     `json:"raw"`
	Bytes    []byte              `json:"bytes"`
	Array    [2]int              `json:"array"`
	IntKeys  map[int]string      `json:"intkeys"`
	Quoted   quoted              `json:"quoted"`
	Inline   struct{ A, B int }  `json:"inline"`
	Iface    interface{ F() }    `json:"iface"`
	Duration time.Duration       `json:"duration"`
	Keyed    map[textMethod]bool `json:"keyed"`
	Skipped  string              `json:"-"`
	hidden   string
}

type inner struct {
	Deep string `json:"deep"`
	deeper
}

type deeper struct {
	Deeper int16 `json:"deeper"`
}

type named string

// quoted has no decoder: encoding/json decodes it.
type quoted struct {
	N int `json:"n,string"`
}

// method keeps the text that it is decoded from.
type method struct{ Text string }

func (m *method) UnmarshalJSON(data []byte) error {
	m.Text += "!" + string(data)
	return nil
}

type textMethod struct{ Text string }

func (m *textMethod) UnmarshalText(text []byte) error {
	m.Text += "!" + string(text)
	return nil
}

func (m textMethod) MarshalText() ([]byte, error) { return []byte(m.Text), nil }

type upper string

func (u *upper) UnmarshalText(text []byte) error {
	*u += "!" + upper(text)
	return nil
}

// Types without a decoder.
type (
	hiding struct {
		inner
		Deep int `json:"deep"`
	}
	embedsPointer struct{ *inner }
	embedsTagged  struct {
		inner `json:"inner"`
	}
	embedsMethod struct {
		method
		textMethod
	}
	accent struct {
		A int `json:"á"`
	}
	optional struct {
		A int `json:"a,string"`
	}
	hasUnnamed struct {
		A struct{ time.Time } `json:"a"`
	}
	embedsText struct{ time.Duration }
)
