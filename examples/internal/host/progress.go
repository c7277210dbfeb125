package host

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// Progress shows how far something is: a bar on a terminal, a line now and then elsewhere.
type Progress struct {
	out      io.Writer
	what     string
	terminal bool
	total    int
	begun    time.Time

	mu    sync.Mutex
	done  int
	shown time.Time
}

// NewProgress starts to show how many of total things are done, which are called what.
func NewProgress(out io.Writer, what string, total int) *Progress {
	p := &Progress{out: out, what: what, total: total, begun: time.Now(), shown: time.Now()}
	if file, ok := out.(*os.File); ok {
		info, err := file.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// Add notes that n more are done and shows it if it is time to.
func (p *Progress) Add(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	every := 5 * time.Second
	if p.terminal {
		every = 100 * time.Millisecond
	}
	if time.Since(p.shown) >= every {
		p.show()
	}
}

// Finish shows the end.
func (p *Progress) Finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.show()
	if p.terminal {
		fmt.Fprintln(p.out)
	}
}

func (p *Progress) show() {
	p.shown = time.Now()
	rate := float64(p.done) / time.Since(p.begun).Seconds()
	if !p.terminal {
		fmt.Fprintf(p.out, "%d of %d %s, %.0f/s\n", p.done, p.total, p.what, rate)
		return
	}
	const width = 40
	full := width * p.done / max(p.total, 1)
	fmt.Fprintf(p.out, "\r[%s%s] %d/%d  %.0f/s ", strings.Repeat("=", full), strings.Repeat(" ", width-full), p.done, p.total, rate)
}
