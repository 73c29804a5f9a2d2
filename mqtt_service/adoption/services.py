"""What the project's Realtime and Storage are told: the publication, rings, and the bucket of pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mqtt_service.adoption.database import fetch, value, values
from mqtt_service.adoption.findings import Aspect, Finding, Level
from mqtt_service.adoption.project import Project

PUBLICATION = "supabase_realtime"
PUBLISHED = ("public.devices", "public.device_commands")
BUCKET = "device-images"
MEDIA_TYPE = "image/jpeg"


@dataclass(frozen=True, slots=True)
class PublicationRow:
    """The publication: the tables in it, and those of them of which it holds back rows or columns."""

    all_tables: bool
    inserts: bool
    updates: bool
    names: Sequence[str]
    partial: Sequence[str]


@dataclass(frozen=True, slots=True)
class BucketRow:
    """The bucket's settings; None: without a limit."""

    is_public: bool
    largest: int | None
    media_types: Sequence[str] | None


_PUBLICATION = """
select p.puballtables as all_tables, p.pubinsert as inserts, p.pubupdate as updates,
  array(select schemaname || '.' || tablename from pg_publication_tables where pubname = p.pubname) as names,
  array(
    select n.nspname || '.' || c.relname
    from pg_publication_rel r
    join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
    where r.prpubid = p.oid and (r.prqual is not null or r.prattrs is not null)) as partial
from pg_publication p where p.pubname = %(name)s
"""

# Whether the connected role can broadcast, and so the function of ours that it will own.
MAY_RING = """
select coalesce(bool_or(
  has_schema_privilege(n.oid, 'usage') and has_function_privilege(p.oid, 'execute')
  and has_table_privilege(m.oid, 'insert') and not row_security_active(m.oid)), false)
from pg_namespace n
join pg_proc p on p.pronamespace = n.oid and p.proname = 'send'
  and oidvectortypes(p.proargtypes) = 'jsonb, text, text, boolean'
join pg_class m on m.relnamespace = n.oid and m.relname = 'messages'
where n.nspname = 'realtime'
"""

# Policies that do not ask for a topic.
_OPEN_TOPICS = """
select policyname::text from pg_policies
where schemaname = 'realtime' and tablename = 'messages' and permissive = 'PERMISSIVE'
  and cmd in ('SELECT', 'ALL') and roles && '{public,anon,authenticated}' and qual !~ 'topic'
order by 1
"""

_ALLOW = """\
update storage.buckets set allowed_mime_types = allowed_mime_types || '{image/jpeg}'
where id = 'device-images';"""
_CLOSE = "update storage.buckets set public = false where id = 'device-images';"

_BUCKET = """
select public as is_public, file_size_limit as largest, allowed_mime_types as media_types
from storage.buckets where id = %(id)s
"""


def inspect(project: Project) -> Iterator[Finding]:
    """Look at the publication, at the doorbell, then at the bucket."""
    yield from _publication(project)
    yield from _doorbell(project)
    if value(project.connection, "select to_regclass('storage.buckets') is null"):
        yield _finding(
            "no_storage",
            "storage",
            "there is no Storage here: pictures cannot be kept until there is",
            Level.LOOK,
        )
        return
    buckets = fetch(project.connection, BucketRow, _BUCKET, id=BUCKET)
    if not buckets:
        yield _finding("bucket_missing", BUCKET, "is no bucket yet: a private one will be made")
    for bucket in buckets:
        yield from _bucket(bucket)


def _publication(project: Project) -> Iterator[Finding]:
    publications = fetch(project.connection, PublicationRow, _PUBLICATION, name=PUBLICATION)
    if not publications:
        yield _finding("publication_missing", PUBLICATION, "is no publication yet: will be made")
    for publication in publications:
        for name in PUBLISHED:
            if name in publication.partial:
                yield _finding(
                    "published_in_part",
                    name,
                    f"is in {PUBLICATION} with some of its rows or columns alone: add it whole",
                    Level.LOOK,
                    f"alter publication {PUBLICATION} drop table {name};"
                    f"\nalter publication {PUBLICATION} add table {name};",
                )
            elif name in publication.names:
                yield _finding("published", name, f"is in the publication {PUBLICATION}")
            else:
                yield _finding("not_published", name, f"will be added to the publication {PUBLICATION}")
        if not (publication.inserts and publication.updates):
            yield _finding(
                "publication_silent",
                PUBLICATION,
                "does not publish inserts or updates: new commands wait for the next poll",
                Level.LOOK,
                f"alter publication {PUBLICATION} set (publish = 'insert, update, delete, truncate');",
            )


def _doorbell(project: Project) -> Iterator[Finding]:
    if not value(project.connection, MAY_RING):
        yield _finding(
            "no_ring",
            "realtime.send",
            "cannot be used by you: workers hear of each new row instead of once for a statement",
        )
    for policy in values(project.connection, _OPEN_TOPICS):
        yield _finding(
            "open_topics",
            f"policy {policy} on realtime.messages",
            "asks for no topic: whom it lets in, it lets into mqtt-service:commands too, where they see "
            "when commands are queued; exclude that one",
            Level.LOOK,
        )


def _bucket(bucket: BucketRow) -> Iterator[Finding]:
    if bucket.media_types is not None and MEDIA_TYPE not in bucket.media_types:
        yield _finding(
            "bucket_refuses_pictures",
            BUCKET,
            f"is a bucket that does not take {MEDIA_TYPE}: every picture would be refused",
            Level.BY_HAND,
            _ALLOW,
        )
    if bucket.is_public:
        yield _finding(
            "bucket_public",
            BUCKET,
            "is a public bucket, and is left so: whoever knows a picture's address can see it",
            Level.LOOK,
            _CLOSE,
        )
    size = "of any size" if bucket.largest is None else f"of at most {bucket.largest} bytes"
    yield _finding("bucket", BUCKET, f"is a bucket, and takes files {size}")


def _finding(
    kind: str, subject: str, text: str, level: Level = Level.NOTE, sql: str | None = None
) -> Finding:
    return Finding(Aspect.SERVICES, kind, subject, text, level, sql)
