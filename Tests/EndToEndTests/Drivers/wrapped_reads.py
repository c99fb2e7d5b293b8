"""Read-only requests as applications write them, each in a transaction; prints for each driver how many ran on NEW.

argv: conninfo without a user, host, port, database, number of users.
"""

import sys

host, port, database, users = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])


def by_psycopg() -> int:
    import psycopg

    on_new = 0
    for user in range(users):
        options = f"-c godwit.user={user}"
        with psycopg.connect(host=host, port=port, dbname=database, user="app", options=options) as connection:
            sides = {connection.execute("SELECT side FROM side_marker").fetchone()[0] for _ in range(2)}
            connection.commit()
            assert len(sides) == 1, sides
            on_new += sides == {"new"}
    return on_new


def by_sqlalchemy() -> int:
    from sqlalchemy import create_engine, text
    from sqlalchemy.orm import Session

    engine = create_engine(f"postgresql+psycopg://app@{host}:{port}/{database}", pool_size=1)
    on_new = 0
    for user in range(users):
        with Session(engine) as session:
            statement = text(f"/* user_id={user} */ SELECT side FROM side_marker")
            on_new += session.execute(statement).scalar_one() == "new"
            session.commit()
    engine.dispose()
    return on_new


def by_django() -> int:
    import django
    from django.conf import settings
    from django.http import HttpResponse
    from django.urls import path

    def view(request, user):
        from django.db import connection

        assert connection.in_atomic_block
        with connection.cursor() as cursor:
            cursor.execute(f"/* user_id={user} */ SELECT side FROM side_marker")
            return HttpResponse(cursor.fetchone()[0])

    settings.configure(
        ALLOWED_HOSTS=["*"], ROOT_URLCONF=(path("<int:user>", view),), SECRET_KEY="none", USE_TZ=True,
        DATABASES={"default": {
            "ENGINE": "django.db.backends.postgresql", "NAME": database, "USER": "app", "HOST": host, "PORT": port,
            "ATOMIC_REQUESTS": True,
        }})
    django.setup()
    from django.test import Client

    client = Client()
    return sum(client.get(f"/{user}").content == b"new" for user in range(users))


for name, run in (("psycopg", by_psycopg), ("SQLAlchemy", by_sqlalchemy), ("Django", by_django)):
    print(name, run())
