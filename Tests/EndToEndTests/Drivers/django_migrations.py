"""Django's own migrations through Godwit: each is one transaction, with its row in django_migrations.

Argument: conninfo.
"""

import sys
import tempfile
from pathlib import Path

import django
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict

# The operations of one migration after the other of an application.
STEPS = [
    """
    migrations.CreateModel("Order", [
        ("id", models.BigAutoField(primary_key=True)), ("label", models.CharField(max_length=40))]),
    migrations.CreateModel("Line", [
        ("id", models.BigAutoField(primary_key=True)), ("order", models.ForeignKey("shop.Order", models.CASCADE))]),
    """,
    """
    migrations.RunPython(fill),
    migrations.AddField("Order", "rank", models.IntegerField(default=7)),
    """,
    """
    migrations.RenameField("Order", "label", "title"),
    migrations.AddIndex("Order", models.Index(fields=["title"], name="order_title")),
    migrations.AlterField("Order", "title", models.TextField()),
    """,
    """
    migrations.RenameModel("Order", "Purchase"),
    migrations.RemoveField("Purchase", "rank"),
    """,
]

MIGRATION = """
from django.db import migrations, models

def fill(apps, editor):
    order = apps.get_model("shop", "Order")
    order.objects.bulk_create(order(label=f"order {{number}}") for number in range(50))

class Migration(migrations.Migration):
    dependencies = {dependencies}
    operations = [{operations}]
"""

with tempfile.TemporaryDirectory() as directory:
    place = Path(directory) / "shop" / "migrations"
    place.mkdir(parents=True)
    for package in (place.parent, place):
        (package / "__init__.py").write_text("")
    names = [f"{number:04}_step" for number in range(len(STEPS))]
    for number, operations in enumerate(STEPS):
        before = [("shop", names[number - 1])] if number > 0 else []
        text = MIGRATION.format(dependencies=before, operations=operations)
        (place / f"{names[number]}.py").write_text(text)
    sys.path.insert(0, directory)

    target = conninfo_to_dict(sys.argv[1])
    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "shop"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql", "NAME": target["dbname"], "USER": target["user"],
                "HOST": target["host"], "PORT": target["port"], "OPTIONS": {"sslmode": "disable"},
            }
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
    )
    django.setup()

    from django.db import DatabaseError, connection, transaction
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())


def attempt(*statements):
    """A nested block, which is a savepoint; False: it was rolled back."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        return True
    except DatabaseError:
        return False


with transaction.atomic():
    assert attempt("ALTER TABLE shop_purchase ADD COLUMN kept int DEFAULT 3")
    assert not attempt("ALTER TABLE shop_purchase ADD COLUMN gone int", "SELECT 1 / 0")
    assert not attempt("CREATE TABLE shop_purchase (id int)")
    assert attempt("ALTER TABLE shop_purchase ADD COLUMN late int", "UPDATE shop_purchase SET late = kept")

with connection.cursor() as cursor:
    cursor.execute("SELECT count(*) FROM django_migrations WHERE app = 'shop'")
    assert cursor.fetchone()[0] == len(STEPS)
    cursor.execute("SELECT count(*) FROM shop_purchase")
    assert cursor.fetchone()[0] == 50
