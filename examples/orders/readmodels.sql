-- The read models of the order service. Each block is kept by one projection in readmodels.go.
-- Only one process at a time creates them: "if not exists" does not see a table that another one is creating.
select pg_advisory_xact_lock(hashtext('shop read models'));

create schema if not exists shop;

-- shop.orders: the present state of each order, and the text that is searched.
create table if not exists shop.orders (
    id        text     not null primary key,
    customer  text     not null,
    status    text     not null,
    currency  text     not null,
    total     bigint   not null,
    placed_on date     not null,
    lines     json     not null,
    carrier   text     not null default '',
    tracking  text     not null default '',
    reason    text     not null default '', -- why it was cancelled or returned
    version   bigint   not null,
    document  tsvector not null -- the names of its items
);

-- For paging through a customer's orders by date and by total.
create index if not exists orders_date on shop.orders (customer, placed_on, id);
create index if not exists orders_total on shop.orders (customer, total, id);
create index if not exists orders_document on shop.orders using gin (document);

-- shop.customers: what each customer has ordered and paid, from the streams of all orders of the customer.
create table if not exists shop.customers (
    customer      text   not null,
    currency      text   not null,
    orders        bigint not null,
    cancelled     bigint not null default 0,
    returned      bigint not null default 0,
    paid          bigint not null default 0,
    refunded      bigint not null default 0,
    last_order_on date   not null,
    primary key (customer, currency)
);

-- The customer of each order: only the first event of an order has it.
create table if not exists shop.customer_orders (
    id       text not null primary key,
    customer text not null,
    currency text not null
);

-- shop.items: stock levels, from the streams of the items, and demand, from the streams of the orders.
create table if not exists shop.items (
    item            text     not null primary key,
    name            text     not null,
    received        bigint   not null,
    available       bigint   not null,
    reserved        bigint   not null,
    shipped         bigint   not null,
    orders          bigint   not null default 0, -- how many have this item
    last_ordered_on date,
    version         bigint   not null,
    document        tsvector not null generated always as (to_tsvector('simple', name)) stored
);

create index if not exists items_document on shop.items using gin (document);

-- shop.revenue: what was paid and refunded, by day and product.
create table if not exists shop.revenue (
    day      date   not null,
    item     text   not null,
    currency text   not null,
    units    bigint not null, -- sold minus refunded
    paid     bigint not null,
    refunded bigint not null,
    primary key (day, item, currency)
);

-- The lines of each order: only the first event of an order has them. Deleted when the order is cancelled or returned.
create table if not exists shop.revenue_lines (
    id       text   not null,
    item     text   not null,
    currency text   not null,
    units    bigint not null,
    amount   bigint not null,
    primary key (id, item)
);
