package main

import (
	"bytes"
	"fmt"
	"image/color"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// point is a ratio or a time y at a number x of events or writers. Both axes are logarithmic.
type point struct{ x, y float64 }

// chart is a plot to which lines and marks are added.
type chart struct {
	plot  *plot.Plot
	lines int
	marks plotter.XYs
	err   error
}

func appendPlot() *chart {
	return newChart("Append: times as fast as one-row INSERT", "writers",
		map[float64]string{1: "1", 4: "4", 16: "16", 64: "64", 256: "256", 1024: "1024"},
		map[float64]string{0.5: "0.5", 1: "1", 2: "2", 4: "4", 8: "8", 16: "16", 32: "32", 64: "64"}).from(0.5)
}

// logSizes are the labels of an axis for the number of events in the log.
var logSizes = map[float64]string{1e3: "1,000", 1e4: "10,000", 1e5: "100,000", 1e6: "1 million", 5e6: "5 million", 2e7: "20 million"}

func growthPlot(first string) *chart {
	return newChart("Growth: times the value at "+first+" events", "events in the log",
		logSizes,
		map[float64]string{0.25: "0.25", 0.5: "0.5", 0.8: "0.8", 1: "1", 1.25: "1.25", 2: "2", 4: "4", 8: "8"}).from(0.5)
}

func loadPlot() *chart {
	return newChart("Load: milliseconds for an aggregate", "events of the aggregate",
		map[float64]string{1e2: "100", 1e3: "1,000", 1e4: "10,000", 1e5: "100,000", 1e6: "1 million"},
		map[float64]string{0.1: "0.1", 1: "1", 10: "10", 100: "100", 1e3: "1,000", 1e4: "10,000"}).from(0.1) // room below the faster line
}

func newChart(title, x string, xs, ys map[float64]string) *chart {
	p := plot.New()
	p.Title.Text, p.X.Label.Text = title, x
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = ticks(xs), ticks(ys)
	for _, style := range []*font.Font{&p.Title.TextStyle.Font, &p.X.Label.TextStyle.Font, &p.X.Tick.Label.Font,
		&p.Y.Tick.Label.Font, &p.Legend.TextStyle.Font} {
		style.Variant = "Sans"
	}
	p.Legend.Top, p.Legend.Left = true, true
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = color.Gray{225}, color.Gray{225}
	p.Add(grid)
	return &chart{plot: p}
}

// from lets the vertical axis begin at y or below.
func (c *chart) from(y float64) *chart {
	c.plot.Y.Min = y * 1.1
	return c
}

func ticks(labels map[float64]string) plot.ConstantTicks {
	var ticks plot.ConstantTicks
	for value, label := range labels {
		ticks = append(ticks, plot.Tick{Value: value, Label: label})
	}
	return ticks
}

// line adds a line through points.
func (c *chart) line(name string, points ...point) {
	line, dots, err := plotter.NewLinePoints(xys(points))
	if err != nil {
		c.err = fmt.Errorf("%s: %w", name, err)
		return
	}
	line.Color, dots.Color = plotutil.Color(c.lines), plotutil.Color(c.lines)
	line.Width, dots.Shape = vg.Points(1.5), plotutil.Shape(c.lines)
	c.plot.Add(line, dots)
	c.plot.Legend.Add(name, line, dots)
	c.lines++
}

// mark marks a target. The line should be at this point or above it; for a time, at it or below it.
func (c *chart) mark(p point) { c.marks = append(c.marks, plotter.XY{X: p.x, Y: p.y}) }

func xys(points []point) plotter.XYs {
	xys := make(plotter.XYs, len(points))
	for i, p := range points {
		xys[i] = plotter.XY{X: p.x, Y: p.y}
	}
	return xys
}

// dash draws the mark of a target: a short horizontal line.
type dash struct{}

func (dash) DrawGlyph(c *draw.Canvas, style draw.GlyphStyle, at vg.Point) {
	c.SetLineStyle(draw.LineStyle{Color: style.Color, Width: vg.Points(2.5)})
	var path vg.Path
	path.Move(vg.Point{X: at.X - style.Radius, Y: at.Y})
	path.Line(vg.Point{X: at.X + style.Radius, Y: at.Y})
	c.Stroke(path)
}

// plot writes a chart into the folder of the report.
func (b *bench) plot(file string, c *chart) error {
	if c.err != nil {
		return c.err
	}
	if len(c.marks) > 0 {
		marks, err := plotter.NewScatter(c.marks)
		if err != nil {
			return err
		}
		marks.GlyphStyle = draw.GlyphStyle{Color: color.Black, Radius: vg.Points(9), Shape: dash{}}
		c.plot.Add(marks)
		c.plot.Legend.Add("target", marks)
	}
	// Leave some room around the lines, and more above them for the legend.
	c.plot.X.Min, c.plot.X.Max = c.plot.X.Min/1.3, c.plot.X.Max*1.7
	c.plot.Y.Min, c.plot.Y.Max = c.plot.Y.Min/1.1, c.plot.Y.Max*3

	canvas := vgsvg.New(16*vg.Centimeter, 11*vg.Centimeter)
	c.plot.Draw(draw.New(canvas))
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return err
	}
	// Few browsers have this font, but all have a font with letters of the same width.
	text := bytes.ReplaceAll(svg.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;"))
	b.plots = append(b.plots, file)
	return os.WriteFile(filepath.Join(b.out, file), text, 0o644)
}
