"""the audit log, deployments and canaries name people by id: a name outlived the person's erasure

Revision 0005, after 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

PROGRAM = ("command line", "retention", "trainer", "gate", "thumbloop", "anonymous", "sign-in", "erased")
COLUMNS = (("audit_event", "actor"), ("deployment", "by"), ("canary", "by"))


def upgrade() -> None:
    user = sa.table("user_account", sa.column("id"), sa.column("name"))
    for table, column in COLUMNS:
        rows = sa.table(table, sa.column(column))
        actor = rows.c[column]
        person = actor.not_in(PROGRAM)
        names = sa.select(user.c.name).where(user.c.name.is_not(None))
        its_id = sa.select(user.c.id).where(user.c.name == actor).scalar_subquery()
        op.execute(sa.update(rows).where(person, actor.in_(names)).values({column: its_id}))
        # Nobody has the other names any more: they are those of erased people.
        op.execute(
            sa.update(rows).where(person, actor.not_in(sa.select(user.c.id))).values({column: "erased"})
        )
