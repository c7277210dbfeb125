-- The tables of the bank's read models that handlers keep, in readmodels.go. The projection of bank.accounts
-- makes its own.
-- In one process at a time: "if not exists" does not see what another one is just creating.
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

-- One row per text that can be searched: the owner's name at version 1, a description after.
create table if not exists bank.search (
    account  text     not null,
    version  bigint   not null,
    text     text     not null,
    document tsvector not null generated always as (to_tsvector('simple', text)) stored,
    primary key (account, version)
);

create index if not exists search_document on bank.search using gin (document);
