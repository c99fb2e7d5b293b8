"""Django's own migrations through Godwit: each is one transaction, with its row in django_migrations.

Argument: conninfo.
"""

import sys
import types

import django
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict

target = conninfo_to_dict(sys.argv[1])
settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "shop"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": target["dbname"], "USER": target["user"], "HOST": target["host"], "PORT": target["port"],
            "OPTIONS": {"sslmode": "disable"},
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)

for name in ("shop", "shop.models", "shop.migrations"):
    module = types.ModuleType(name)
    module.__path__ = []
    module.__file__ = f"/nowhere/{name.replace('.', '/')}/__init__.py"
    sys.modules[name] = module

from django.apps import AppConfig


class ShopConfig(AppConfig):
    name = "shop"
    path = "/nowhere/shop"


apps_module = types.ModuleType("shop.apps")
apps_module.ShopConfig = ShopConfig
sys.modules["shop.apps"] = apps_module
settings.INSTALLED_APPS[2] = "shop.apps.ShopConfig"

django.setup()

from django.db import connection, migrations, models
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader


def fill(apps, editor):
    order = apps.get_model("shop", "Order")
    order.objects.bulk_create(order(label=f"order {number}") for number in range(50))


STEPS = [
    [
        migrations.CreateModel(
            "Order", [("id", models.BigAutoField(primary_key=True)), ("label", models.CharField(max_length=40))]),
        migrations.CreateModel(
            "Line", [
                ("id", models.BigAutoField(primary_key=True)),
                ("order", models.ForeignKey("shop.Order", models.CASCADE)),
            ]),
    ],
    [migrations.RunPython(fill), migrations.AddField("Order", "rank", models.IntegerField(default=7))],
    [
        migrations.RenameField("Order", "label", "title"),
        migrations.AddIndex("Order", models.Index(fields=["title"], name="order_title")),
        migrations.AlterField("Order", "title", models.TextField()),
    ],
    [migrations.RenameModel("Order", "Purchase"), migrations.RemoveField("Purchase", "rank")],
]


def migration(number):
    name = f"{number:04}_step"
    before = [("shop", f"{number - 1:04}_step")] if number > 1 else []
    return name, type("Migration", (migrations.Migration,), {"dependencies": before, "operations": STEPS[number - 1]})


OWN = dict(migration(number + 1) for number in range(len(STEPS)))
load_disk = MigrationLoader.load_disk


def load(self):
    load_disk(self)
    for name, kind in OWN.items():
        self.disk_migrations["shop", name] = kind(name, "shop")
    self.migrated_apps.add("shop")
    self.unmigrated_apps.discard("shop")


MigrationLoader.load_disk = load

executor = MigrationExecutor(connection)
executor.migrate(executor.loader.graph.leaf_nodes())
with connection.cursor() as cursor:
    cursor.execute("SELECT count(*) FROM django_migrations WHERE app = 'shop'")
    assert cursor.fetchone()[0] == len(STEPS)
    cursor.execute("SELECT count(*) FROM shop_purchase")
    assert cursor.fetchone()[0] == 50
print("done")
