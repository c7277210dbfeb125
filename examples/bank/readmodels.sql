-- The tables of the bank's read models that the handlers in readmodels.go keep. The projection bank.accounts
-- creates its own table.
-- Only one process at a time creates them: "if not exists" does not see a table that another one is creating.
select pg_advisory_xact_lock(hashtext('bank read models'));

create schema if not exists bank;

create table if not exists bank.statement (
    account      text   not null,
    version      bigint not null,
    booked_on    date   not null,
    type         text   not null,
    amount       bigint not null, -- negative if it left the account
    balance      bigint not null, -- after this entry
    description  text   not null,
    counterparty text   not null,
    primary key (account, version)
);

-- One row per text that can be found: the owner's name at version 1, and descriptions at later versions.
create table if not exists bank.search (
    account  text     not null,
    version  bigint   not null,
    text     text     not null,
    document tsvector not null generated always as (to_tsvector('simple', text)) stored,
    primary key (account, version)
);

create index if not exists search_document on bank.search using gin (document);
