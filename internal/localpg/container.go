//go:build linux || darwin || freebsd

package localpg

import (
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/testcontainers/testcontainers-go"
)

//go:embed container.sh
var removeContainer string

const (
	imageVar     = "TIDEMARK_POSTGRES_IMAGE"
	defaultImage = "postgres:17-alpine"
	// volume is where a kept cluster is mounted. It is not where images have
	// theirs, since they disagree about that from version to version.
	volume = "/tidemark"
)

// startContainer runs Postgres in Docker.
func (c *Config) startContainer(ctx context.Context) (*Server, error) {
	docker, err := testcontainers.NewDockerProvider()
	if err != nil {
		return nil, fmt.Errorf("docker is %w: %w", errAbsent, err)
	}
	defer docker.Close()

	cluster, err := c.containerCluster(ctx)
	if err != nil {
		return nil, err
	}
	if cluster.lock != nil {
		defer cluster.lock.Close() // the watchdog has its own copy
	}
	// The watchdog comes first, so that there is no moment at which a container
	// exists and nobody looks after it.
	name := "tidemark-pg-" + rand.Text()[:16]
	unwatch, err := watchContainer(name, docker.Client().DaemonHost(), c.grace(), cluster.lock)
	if err != nil {
		return nil, err
	}
	server, err := c.runContainer(ctx, name, cluster)
	if err != nil {
		return nil, errors.Join(err, unwatch())
	}
	terminate := server.stop
	server.stop = func() error { return errors.Join(terminate(), unwatch()) }
	return server, nil
}

func (c *Config) runContainer(ctx context.Context, name string, cluster containerCluster) (*Server, error) {
	image := cmp.Or(os.Getenv(imageVar), defaultImage)
	box, err := testcontainers.Run(ctx, image,
		testcontainers.WithName(name),
		testcontainers.WithLogger(log.New(io.Discard, "", 0)),
		testcontainers.WithEnv(map[string]string{
			"POSTGRES_PASSWORD":    cluster.password,
			"POSTGRES_INITDB_ARGS": "--no-sync --encoding=UTF8 --locale=C",
			"PGDATA":               volume + "/data",
		}),
		testcontainers.WithCmd(append([]string{"postgres"}, c.settings()...)...),
		testcontainers.WithExposedPorts("5432/tcp"),
		testcontainers.WithHostConfigModifier(func(host *container.HostConfig) { host.Binds = cluster.binds }),
	)
	terminate := func() error {
		return testcontainers.TerminateContainer(box, testcontainers.StopTimeout(c.grace()))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("run a container of %s: %w", image, err), terminate())
	}
	host, hostErr := box.Host(ctx)
	port, portErr := box.MappedPort(ctx, "5432/tcp")
	if err := errors.Join(hostErr, portErr); err != nil {
		return nil, errors.Join(fmt.Errorf("find the container's address: %w", err), terminate())
	}
	// While the image still prepares the cluster, its server does not listen on
	// the network: the first connection that succeeds is to the real one.
	url := fmt.Sprintf("postgres://postgres:%s@%s/postgres?sslmode=disable", cluster.password, net.JoinHostPort(host, port.Port()))
	ended := func() bool {
		state, err := box.State(ctx)
		return err == nil && !state.Running
	}
	if err := awaitReady(ctx, url, ended); err != nil {
		return nil, errors.Join(fmt.Errorf("start a container of %s: %w: %s", image, err, lastWords(ctx, box)), terminate())
	}
	return &Server{url: url, source: Container, stop: terminate}, nil
}

// lastWords returns the end of a container's log.
func lastWords(ctx context.Context, box testcontainers.Container) string {
	logs, err := box.Logs(ctx)
	if err != nil {
		return err.Error()
	}
	defer logs.Close()
	text, _ := io.ReadAll(logs) // what there is of it will do
	const enough = 2000
	return strings.TrimSpace(string(text[max(0, len(text)-enough):]))
}

// containerCluster is the cluster that a container serves. Its port may be open
// to the network, hence the password.
type containerCluster struct {
	password string
	binds    []string // where the cluster is kept; nil for one that is not
	lock     *os.File // held on a kept cluster
}

// containerCluster settles where the cluster is. A kept one is beside that of
// local binaries, since the two have different owners.
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

// keptPassword reads the password of a kept cluster, or makes one up.
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

// grace is how long the container's server gets to shut down: a throw-away
// cluster needs no checkpoint on its way out.
func (c *Config) grace() time.Duration {
	if c.Dir == "" {
		return 0
	}
	return 30 * time.Second
}

// watchContainer starts a watchdog for a container. Without the docker command
// there is none, and cleaning up after a crash is left to testcontainers.
func watchContainer(name, daemon string, grace time.Duration, lock *os.File) (stop func() error, err error) {
	docker, err := exec.LookPath("docker")
	if err != nil {
		return func() error { return nil }, nil
	}
	args := []string{docker, daemon, name, strconv.Itoa(int(grace.Seconds()))}
	w, err := watch(removeContainer, args, nil, lock)
	if err != nil {
		return nil, err
	}
	return w.stop, nil
}
