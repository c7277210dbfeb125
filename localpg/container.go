//go:build linux || darwin || freebsd

package localpg

import (
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

//go:embed container.sh
var removeContainer string

const (
	imageVar = "TIDEMARK_POSTGRES_IMAGE"
	// hostVar names the environment variable for the host at which the ports of containers are found. It is needed
	// where that is neither this machine nor the machine of the daemon: in a container that uses the daemon of its
	// host.
	hostVar      = "TIDEMARK_DOCKER_HOST"
	defaultImage = "postgres:17-alpine"
	// volume is where a kept cluster is mounted. It is not the folder that images use by default, because that differs
	// from version to version.
	volume = "/tidemark"
	// daemonWithin is how long the Docker daemon can take to answer.
	daemonWithin = 10 * time.Second
)

// docker is the docker command, and the host whose ports its daemon publishes.
type docker struct {
	command string
	host    string
	env     []string // for the command
}

// findDocker returns the docker command, if a daemon answers it.
func findDocker(ctx context.Context) (docker, error) {
	command, err := exec.LookPath("docker")
	if err != nil {
		return docker{}, fmt.Errorf("docker is %w: %w", errAbsent, err)
	}
	d := docker{command: command, host: "127.0.0.1"}
	ctx, cancel := context.WithTimeout(ctx, daemonWithin)
	defer cancel()
	if _, err := d.run(ctx, "version", "--format", "{{.Server.Version}}"); err != nil {
		return docker{}, fmt.Errorf("docker is %w: %w", errAbsent, err)
	}
	if host, err := d.daemonHost(ctx); err == nil {
		d.host = host
	}
	return d, nil
}

// daemonHost returns the host whose ports the daemon publishes. It returns an error if that is this machine.
func (d docker) daemonHost(ctx context.Context) (string, error) {
	if host := os.Getenv(hostVar); host != "" {
		return host, nil
	}
	endpoint := os.Getenv("DOCKER_HOST")
	if endpoint == "" {
		var err error
		if endpoint, err = d.run(ctx, "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"); err != nil {
			return "", err
		}
	}
	daemon, err := url.Parse(endpoint)
	if err == nil && daemon.Scheme != "tcp" && daemon.Scheme != "ssh" {
		err = errors.New("the daemon is on this machine")
	}
	if err != nil {
		return "", err
	}
	return daemon.Hostname(), nil
}

// run runs the docker command and returns what it prints.
func (d docker) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.command, args...)
	cmd.Env = append(os.Environ(), d.env...)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	output, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", args[0], err, lastWords(complaints.String()))
	}
	return strings.TrimSpace(string(output)), nil
}

// lastWords returns the end of a text.
func lastWords(text string) string {
	const enough = 2000
	return strings.TrimSpace(text[max(0, len(text)-enough):])
}

// startContainer runs Postgres in Docker.
func (c *Config) startContainer(ctx context.Context) (*Server, error) {
	d, err := findDocker(ctx)
	if err != nil {
		return nil, err
	}
	cluster, err := c.containerCluster(ctx)
	if err != nil {
		return nil, err
	}
	if cluster.lock != nil {
		defer cluster.lock.Close() // the watchdog has its own copy
	}
	// The watchdog removes the container. It is started first, so that no container exists without a watchdog.
	name := "tidemark-pg-" + rand.Text()[:16]
	w, err := watch(removeContainer, []string{d.command, name, strconv.Itoa(c.grace())}, nil, cluster.lock)
	if err != nil {
		return nil, err
	}
	address, err := c.runContainer(ctx, d, name, cluster)
	if err != nil {
		return nil, errors.Join(err, w.stop())
	}
	return &Server{url: address, source: Container, stop: w.stop}, nil
}

// runContainer starts a container and returns how to connect to it.
func (c *Config) runContainer(ctx context.Context, d docker, name string, cluster containerCluster) (string, error) {
	image := cmp.Or(os.Getenv(imageVar), defaultImage)
	published := "127.0.0.1::5432"
	if d.host != "127.0.0.1" {
		published = "5432"
	}
	args := []string{
		"run", "--detach", "--name", name, "--publish", published,
		"--env", "POSTGRES_PASSWORD", // from the environment, because every user can see arguments
		"--env", "POSTGRES_INITDB_ARGS=--no-sync --encoding=UTF8 --locale=C",
		"--env", "PGDATA=" + volume + "/data",
	}
	for _, bind := range cluster.binds {
		args = append(args, "--volume", bind)
	}
	d.env = []string{"POSTGRES_PASSWORD=" + cluster.password}
	if _, err := d.run(ctx, append(append(args, image, "postgres"), c.settings()...)...); err != nil {
		return "", fmt.Errorf("run a container of %s: %w", image, err)
	}
	ports, err := d.run(ctx, "port", name, "5432/tcp")
	if err != nil {
		return "", fmt.Errorf("find the container's address: %w", err)
	}
	first, _, _ := strings.Cut(ports, "\n")
	_, port, err := net.SplitHostPort(first)
	if err != nil {
		return "", fmt.Errorf("find the container's address in %q: %w", ports, err)
	}
	// While the image prepares the cluster, its server does not listen on the network. So the first connection that
	// succeeds is to the final server.
	address := fmt.Sprintf("postgres://postgres:%s@%s/postgres?sslmode=disable", cluster.password, net.JoinHostPort(d.host, port))
	var asked time.Time // asking starts a process, so it is done once a second at most
	ended := func() bool {
		if time.Since(asked) < time.Second {
			return false
		}
		asked = time.Now()
		running, err := d.run(ctx, "inspect", "--format", "{{.State.Running}}", name)
		return err == nil && running == "false"
	}
	if err := awaitReady(ctx, address, ended); err != nil {
		logs, _ := exec.CommandContext(ctx, d.command, "logs", "--tail", "50", name).CombinedOutput() // an incomplete log is enough
		return "", fmt.Errorf("start a container of %s: %w: %s", image, err, lastWords(string(logs)))
	}
	return address, nil
}

// containerCluster is the cluster that a container serves. It has a password, because its port may be open to the
// network.
type containerCluster struct {
	password string
	binds    []string // where the cluster is kept; nil if it is temporary
	lock     *os.File // held on a kept cluster
}

// containerCluster decides where the cluster is. A kept cluster is beside that of local binaries, because the two have
// different owners.
func (c *Config) containerCluster(ctx context.Context) (containerCluster, error) {
	if c.Dir == "" {
		return containerCluster{password: rand.Text()}, nil
	}
	kept, err := openDir(ctx, c.Dir, nil)
	if err != nil {
		return containerCluster{}, err
	}
	dir := filepath.Dir(kept.data)
	password, err := keptPassword(filepath.Join(dir, "password"))
	if err != nil {
		kept.lock.Close()
		return containerCluster{}, err
	}
	return containerCluster{
		password: password,
		binds:    []string{filepath.Join(dir, "container") + ":" + volume},
		lock:     kept.lock,
	}, nil
}

// keptPassword reads the password of a kept cluster, or creates one.
func keptPassword(path string) (string, error) {
	content, err := os.ReadFile(path)
	if err == nil && len(content) > 0 {
		return string(content), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	password := rand.Text()
	return password, os.WriteFile(path, []byte(password), 0o600)
}

// grace is how many seconds the container's server gets to shut down. It is 0 for a temporary cluster, which needs no
// checkpoint when it stops.
func (c *Config) grace() int {
	if c.Dir == "" {
		return 0
	}
	return 30
}
