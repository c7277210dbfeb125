package tidemarktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"sync"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

// startWithin bounds a start. It leaves time to download an image.
const startWithin = 5 * time.Minute

// containers are the containers of this process, by their images. They live as long as the process. That is why the
// variable is global.
var containers struct {
	sync.Mutex
	urls  map[string]string
	boxes []testcontainers.Container
}

// stopContainers removes the containers of this process.
func stopContainers() error {
	containers.Lock()
	defer containers.Unlock()
	var errs []error
	for _, box := range containers.boxes {
		errs = append(errs, testcontainers.TerminateContainer(box, testcontainers.StopTimeout(0)))
	}
	containers.boxes, containers.urls = nil, nil
	return errors.Join(errs...)
}

// container returns the URL of a server in a container of an image. All callers in this process share it.
func container(image string) (string, error) {
	containers.Lock()
	defer containers.Unlock()
	if url, ok := containers.urls[image]; ok {
		return url, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), startWithin)
	defer cancel()
	const password = "tidemarktest"
	box, err := testcontainers.Run(ctx, image,
		testcontainers.WithLogger(log.New(io.Discard, "", 0)),
		testcontainers.WithEnv(map[string]string{"POSTGRES_PASSWORD": password, "POSTGRES_INITDB_ARGS": "--no-sync --encoding=UTF8 --locale=C"}),
		testcontainers.WithCmd("postgres", "-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "max_connections=200"),
		testcontainers.WithExposedPorts("5432/tcp"),
		// While the image prepares the cluster, its server does not listen on the network.
		testcontainers.WithWaitStrategy(wait.ForListeningPort("5432/tcp")),
	)
	if err != nil {
		return "", errors.Join(err, testcontainers.TerminateContainer(box))
	}
	host, err := box.Host(ctx)
	if err != nil {
		return "", err
	}
	port, err := box.MappedPort(ctx, "5432/tcp")
	if err != nil {
		return "", err
	}
	url := fmt.Sprintf("postgres://postgres:%s@%s/postgres?sslmode=disable", password, net.JoinHostPort(host, port.Port()))
	if containers.urls == nil {
		containers.urls = make(map[string]string)
	}
	containers.urls[image], containers.boxes = url, append(containers.boxes, box)
	return url, nil
}
