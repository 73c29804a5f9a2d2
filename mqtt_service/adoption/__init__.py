"""Know before you apply: what the migrations meet in a project's database, and whether they work there.

`check` puts it together; each other module is one aspect. Needs the extra `database`, unlike the worker,
which does not know of it.
"""
