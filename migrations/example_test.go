package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/migrations"
)

// An application migrates when it starts, before it opens the store. Instances that start
// together may all do so.
func ExampleUp() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	if err := migrations.Up(ctx, pool, nil); err != nil {
		log.Fatal(err)
	}
}

// Where the application may not change the schema, it checks that somebody else has.
func ExampleValidate() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	config := &migrations.Config{Schema: "accounting"}
	switch err := migrations.Validate(ctx, pool, config); {
	case errors.Is(err, migrations.ErrPending):
		fmt.Println("run the migrations first")
	case errors.Is(err, migrations.ErrNewer):
		fmt.Println("deploy the current release")
	case err != nil:
		log.Fatal(err)
	}
}

// One role for the services, one for the people who look after them.
func ExampleCreateRoles() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL")) // as the owner of the schema
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	if err := migrations.CreateRoles(ctx, pool, nil, migrations.Roles{}); err != nil {
		log.Fatal(err)
	}
	// Roles cannot log in by themselves.
	if _, err := pool.Exec(ctx, `grant tidemark_app to orders_service`); err != nil {
		log.Fatal(err)
	}
}
