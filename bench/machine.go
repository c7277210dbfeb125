package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// durable are the settings that must be on: without them the figures mean nothing.
var durable = []string{"fsync", "synchronous_commit", "full_page_writes"}

// further are other settings that influence the figures.
var further = []string{"wal_sync_method", "wal_level", "shared_buffers", "max_wal_size", "checkpoint_timeout"}

// describeMachine writes the machine, the Postgres and its settings into the report. It returns an error for a
// Postgres that is not durable.
func (b *bench) describeMachine(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, b.url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if b.meter, err = newMeter(ctx, conn); err != nil {
		return err
	}
	setting := func(name string) (value string) {
		if err == nil {
			err = conn.QueryRow(ctx, `select current_setting($1)`, name).Scan(&value)
		}
		return value
	}
	var settings []string
	for _, name := range durable {
		value := setting(name)
		if err == nil && value != "on" {
			return fmt.Errorf("the server has %s = %s: it must be on", name, value)
		}
		settings = append(settings, name+" "+value)
	}
	for _, name := range further {
		settings = append(settings, name+" "+setting(name))
	}
	version := setting("server_version")
	if err != nil {
		return err
	}
	command := fmt.Sprintf("go run . -seconds %v -max %d", b.seconds, b.max)
	if b.short {
		command = "go run . -short"
	}
	if b.busy > 0 {
		command += fmt.Sprintf(" -busy %d", b.busy)
	}
	if b.only != "" {
		command += fmt.Sprintf(" -only '%s'", b.only)
	}
	var text strings.Builder
	text.WriteString("| machine | |\n|---|---|\n")
	for _, line := range [][2]string{
		{"command", "`" + command + "`"},
		{"date", time.Now().UTC().Format(time.DateOnly)},
		{"processor", fmt.Sprintf("%s, %d cores", find("/proc/cpuinfo", `model name\s*: (.*)`), runtime.NumCPU())},
		{"memory", memory()},
		{"system", find("/etc/os-release", `PRETTY_NAME="(.*)"`) + ", " + runtime.GOARCH},
		{"other load", b.otherLoad()},
		{"Go", runtime.Version()},
		{"Postgres", version + ": " + strings.Join(settings, ", ")},
	} {
		fmt.Fprintf(&text, "| %s | %s |\n", line[0], line[1])
	}
	b.machine = text.String()
	b.progress("%s", b.machine)
	return nil
}

// otherLoad says what else keeps the processors busy during the measurements.
func (b *bench) otherLoad() string {
	if b.busy == 0 {
		return "none by this command"
	}
	return fmt.Sprintf("%d processes that are always busy", b.busy)
}

// find returns the first group of a pattern in a file, or "unknown". Only Linux has the files.
func find(file, pattern string) string {
	text, _ := os.ReadFile(file)
	if found := regexp.MustCompile(pattern).FindSubmatch(text); found != nil {
		return string(found[1])
	}
	return "unknown"
}

func memory() string {
	kilobytes, err := strconv.Atoi(find("/proc/meminfo", `MemTotal:\s*(\d+)`))
	if err != nil {
		return "unknown"
	}
	return fmt.Sprintf("%d GiB", (kilobytes+1<<19)>>20)
}
