-- All commands, the latest first, page by page: what the console lists.
--
-- A file of its own, so a transaction of its own: beside the policies of …_console.sql, which lock what workers read after
-- commands, an index of commands could wait for a worker that waits for them.

create index if not exists device_commands_issued_at_idx on public.device_commands (issued_at desc, command_id desc);
