package plainjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// standard decodes with encoding/json. strict refuses members without a field.
func standard(data []byte, value any, strict bool) error {
	if !strict {
		return json.Unmarshal(data, value)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(value); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one value")
	}
	return nil
}
