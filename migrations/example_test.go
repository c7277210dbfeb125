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

// An application migrates when it starts, before it opens the store. Several instances can do this at the same time.
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

// An application without the right to change the schema checks that the migrations were applied.
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

// One role is for services, the other for operators.
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
	// The roles cannot log in, so they are granted to a role that can.
	if _, err := pool.Exec(ctx, `grant tidemark_app to orders_service`); err != nil {
		log.Fatal(err)
	}
}
