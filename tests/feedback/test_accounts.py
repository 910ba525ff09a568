"""Accounts: invitations, passwords, sessions, guessing, forgetting."""

from __future__ import annotations

import sqlite3
import threading

import pytest
from argon2 import PasswordHasher
from tests.feedback.conftest import Clock

import tether.feedback.accounts as accounts_room
from tether.errors import InputError
from tether.feedback.accounts import TRIES, WINDOW, Accounts, TooMany
from tether.feedback.invitations import invite_name
from tether.feedback.records import Missing
from tether.feedback.store import Store

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords are hashed as always, only with the least of work."""
    monkeypatch.setattr(accounts_room, "_hasher", lambda: PasswordHasher(1, 8, 1))


@pytest.fixture
def store(database: str, clock: Clock):
    with Store.open(database, clock=clock) as opened:
        yield opened


@pytest.fixture
def accounts(store: Store) -> Accounts:
    return Accounts(store)


def make(accounts: Accounts, name: str = "ann", **invite) -> int:
    return accounts.accept(accounts.invite(**invite), name, PASSWORD)


def test_an_invitation_makes_one_account(accounts, store, clock):
    project = store.add_project("helpfulness")
    token = accounts.invite(project=project)
    accounts.check_invite(token)
    with pytest.raises(InputError, match="10 to 1000 characters"):
        accounts.accept(token, "ann", "short")
    user = accounts.accept(token, " ann ", PASSWORD)
    assert store.user(user).name == "ann"
    assert [m.id for m in store.members(project)] == [user]
    assert not accounts.has_admin()
    with pytest.raises(Missing, match="used or too old"):
        accounts.accept(token, "bob", PASSWORD)
    late = accounts.invite(admin=True, lifetime=60)
    clock.now += 61
    with pytest.raises(Missing):
        accounts.check_invite(late)
    with pytest.raises(InputError, match="'ANN' is taken"):
        accounts.accept(accounts.invite(), "ANN", PASSWORD)
    make(accounts, "root", admin=True)
    assert accounts.has_admin()


@pytest.mark.parametrize("again", ["Élodie", "ÉLODIE", "élodie"])
def test_nobody_comes_in_by_the_name_of_somebody_else(accounts, store, again):
    """SQLite lowers no letter outside ASCII: the name seemed free, and its account got the newcomer's password."""
    user = make(accounts, "Élodie", admin=True)
    with pytest.raises(InputError, match="is taken"):
        accounts.accept(accounts.invite(), again, "the newcomer's password")
    assert accounts.who(accounts.sign_in("Élodie", PASSWORD)).id == user
    assert store.user(user).admin


def test_open_invitations_are_listed_until_used_old_or_revoked(accounts, store, clock):
    project, boss = store.add_project("helpfulness"), make(accounts, "root", admin=True)
    used, revoked = (accounts.invite(project=project) for _ in range(2))
    clock.now += 10
    admins = accounts.invite(admin=True, lifetime=60)
    accounts.password_link(make(accounts), boss)
    accounts.accept(used, "bob", PASSWORD)
    first, *rest = accounts.invites()
    assert (first.name, first.project, first.created, first.expires) == (
        invite_name(revoked),
        "helpfulness",
        1000.0,
        1000.0 + 7 * 86_400,
    )
    assert {(i.admin, i.project, i.person, i.expires) for i in rest} == {
        (True, None, None, 1070.0),
        (False, None, "ann", 1010.0 + 86_400),
    }
    assert accounts.invites(project) == [first]
    assert accounts.invites(project + 1) == []
    accounts.revoke(first.name, boss)
    said = store.audit(1)[0]
    assert (said.user, said.action) == (boss, "invite_revoked")
    assert {k: v for k, v in said.about.items() if v} == {"invite": first.name, "project": project}
    clock.now += 60
    assert [i.person for i in accounts.invites()] == ["ann"]
    for token in (used, revoked, admins):
        with pytest.raises(Missing):
            accounts.accept(token, "carl", PASSWORD)
        with pytest.raises(Missing, match="is not open"):
            accounts.revoke(invite_name(token), boss)


def test_an_invitation_is_revoked_only_under_its_own_project(accounts, store):
    ours, theirs, boss = store.add_project("ours"), store.add_project("theirs"), make(accounts, "root", admin=True)
    tokens = [accounts.invite(project=ours), accounts.invite(admin=True)]
    for token in tokens:
        with pytest.raises(Missing, match="is not open"):
            accounts.revoke(invite_name(token), boss, theirs)
        accounts.check_invite(token)
    accounts.revoke(invite_name(tokens[0]), boss, ours)
    with pytest.raises(Missing):
        accounts.check_invite(tokens[0])


def test_whoever_forgot_their_password_sets_another_once(accounts, store):
    boss, ann, bob = make(accounts, "root", admin=True), make(accounts), make(accounts, "bob")
    mine, theirs, program = (
        accounts.sign_in("ann", PASSWORD),
        accounts.sign_in("bob", PASSWORD),
        accounts.token_for(ann),
    )
    token = accounts.password_link(ann, boss)
    assert accounts.check_password_link(token) == "ann"
    with pytest.raises(InputError, match="10 to 1000 characters"):
        accounts.renew_password(token, "short")
    assert accounts.who(mine)  # so far nothing has changed
    assert accounts.renew_password(token, PASSWORD + "2") == ann
    assert accounts.who(mine) is accounts.who(program) is None
    assert accounts.who(theirs).id == bob
    with pytest.raises(InputError, match="password is wrong"):
        accounts.sign_in("ann", PASSWORD)
    assert accounts.who(accounts.sign_in("ann", PASSWORD + "2")).name == "ann"
    assert accounts.sign_in("bob", PASSWORD)
    with pytest.raises(Missing, match="unknown, used or too old"):
        accounts.renew_password(token, PASSWORD + "3")
    assert accounts.invites() == []
    said = {event.action: event for event in store.audit()}
    assert (said["password_link_made"].user, said["password_link_made"].about["person"]) == (boss, ann)
    assert said["password_renewed"].user == ann
    names = {said[action].about["invite"] for action in ("password_link_made", "password_renewed")}
    assert names == {invite_name(token)}


def test_a_link_for_a_password_makes_no_account_and_an_invitation_sets_none(accounts):
    boss, ann = make(accounts, "root", admin=True), make(accounts)
    link, invite = accounts.password_link(ann, boss), accounts.invite(admin=True)
    for tried in (lambda: accounts.check_invite(link), lambda: accounts.accept(link, "carl", PASSWORD)):
        with pytest.raises(Missing):
            tried()
    for tried in (lambda: accounts.check_password_link(invite), lambda: accounts.renew_password(invite, PASSWORD)):
        with pytest.raises(Missing):
            tried()
    assert len(accounts.invites()) == 2


def _again(accounts, store, clock, ann, boss):
    accounts.password_link(ann, boss)


def _day(accounts, store, clock, ann, boss):
    clock.now += 86_400


def _revoke(accounts, store, clock, ann, boss):
    accounts.revoke(accounts.invites()[0].name, boss)


def _change(accounts, store, clock, ann, boss):
    accounts.change_password(ann, PASSWORD, PASSWORD + "2")


def _shut_out(accounts, store, clock, ann, boss):
    store.change_user(ann, active=False)
    store.change_user(ann, active=True)  # coming in again does not bring it back


def _forget(accounts, store, clock, ann, boss):
    store.forget_user(ann)


@pytest.mark.parametrize("end", [_again, _day, _revoke, _change, _shut_out, _forget])
def test_a_link_for_a_password_ends(accounts, store, clock, end):
    boss, ann, bob = make(accounts, "root", admin=True), make(accounts), make(accounts, "bob")
    token = accounts.password_link(ann, boss)
    clock.now += 1
    others = accounts.password_link(bob, boss)
    clock.now -= 1
    end(accounts, store, clock, ann, boss)
    with pytest.raises(Missing):
        accounts.check_password_link(token)
    with pytest.raises(Missing):
        accounts.renew_password(token, "a stranger's password")
    with pytest.raises(InputError, match="password is wrong"):
        accounts.sign_in("ann", "a stranger's password")
    assert accounts.check_password_link(others) == "bob"


def test_only_people_with_a_password_get_a_link_for_another(accounts, store):
    boss, gone, out = make(accounts, "root", admin=True), make(accounts), make(accounts, "bob")
    store.forget_user(gone)
    store.change_user(gone, active=True)
    store.change_user(out, active=False)
    others = [store.add_user(kind, kind) for kind in ("ai", "simulated", "human")]  # the last as by an import
    for user in (gone, out, *others):
        with pytest.raises(InputError, match="cannot sign in with a password"):
            accounts.password_link(user, boss)
    with pytest.raises(Missing):
        accounts.password_link(999, boss)
    assert accounts.invites() == []


def test_a_link_for_a_password_is_used_once_however_many_use_it_at_once(accounts):
    token = accounts.password_link(make(accounts), make(accounts, "root", admin=True))
    outcomes: list[str] = []

    def use(password: str) -> None:
        try:
            accounts.renew_password(token, password)
            outcomes.append(password)
        except Missing:
            pass

    threads = [threading.Thread(target=use, args=(f"{PASSWORD} {n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (won,) = outcomes
    assert accounts.sign_in("ann", won)


def test_a_session_lasts_until_it_is_ended(accounts, store, clock):
    user = make(accounts)
    first, second = (accounts.sign_in("ann", PASSWORD) for _ in range(2))
    assert first != second
    assert accounts.who(first).id == accounts.who(second).id == user
    accounts.sign_out(first)
    assert accounts.who(first) is None
    with pytest.raises(InputError, match="present password is wrong"):
        accounts.change_password(user, "not the old one", PASSWORD + "2")
    third = accounts.sign_in("ann", PASSWORD)
    accounts.change_password(user, PASSWORD, PASSWORD + "2", keep=third)
    assert accounts.who(second) is None
    assert accounts.who(third).id == user
    program = accounts.token_for(user)
    clock.now += 15 * 86_400
    assert accounts.who(third) is None
    assert accounts.who(program).id == user
    store.change_user(user, active=False)
    assert accounts.who(program) is None
    with pytest.raises(InputError, match="name or password is wrong"):
        accounts.sign_in("ann", PASSWORD + "2")


def test_an_old_password_is_of_no_use_to_who_began_before_it_was_changed(accounts, monkeypatch):
    user, fits = make(accounts), accounts._fits

    def slowly(hashed: str, password: str) -> bool:
        monkeypatch.setattr(accounts, "_fits", fits)
        accounts.change_password(user, PASSWORD, PASSWORD + "2")
        return fits(hashed, password)

    monkeypatch.setattr(accounts, "_fits", slowly)
    with pytest.raises(InputError, match="password is wrong"):
        accounts.sign_in("ann", PASSWORD)
    assert accounts.sign_in("ann", PASSWORD + "2")


def test_a_change_that_began_before_a_new_password_was_set_does_not_undo_it(accounts, monkeypatch):
    user, fits = make(accounts), accounts._fits
    token = accounts.password_link(user, make(accounts, "root", admin=True))

    def slowly(hashed: str, password: str) -> bool:
        monkeypatch.setattr(accounts, "_fits", fits)
        accounts.renew_password(token, PASSWORD + "2")
        return fits(hashed, password)

    monkeypatch.setattr(accounts, "_fits", slowly)
    with pytest.raises(InputError, match="present password is wrong"):
        accounts.change_password(user, PASSWORD, "a stranger's password")
    assert accounts.sign_in("ann", PASSWORD + "2")


def test_nothing_in_the_file_lets_one_in(tmp_path):
    file = tmp_path / "s.db"
    with Store.open(file) as store:
        accounts = Accounts(store)
        user = make(accounts)
        tokens = [accounts.invite(), accounts.password_link(user, user)]
        tokens.append(accounts.sign_in("ann", PASSWORD))
    with sqlite3.connect(file) as db:
        dump = "\n".join(db.iterdump())
    db.close()
    assert "argon2id" in dump
    assert not [secret for secret in (*tokens, PASSWORD) if secret in dump]


def test_guessing_is_slowed_by_name_and_by_address(accounts, clock):
    make(accounts)
    for name in ("ann", "nobody"):
        for _ in range(TRIES):
            with pytest.raises(InputError, match="name or password is wrong"):
                accounts.sign_in(name, "a wrong guess", "10.0.0.1")
        with pytest.raises(TooMany, match="wait 15 minutes"):
            accounts.sign_in(name, PASSWORD, "10.0.0.1")
    assert accounts.who(accounts.sign_in("ann", PASSWORD, "10.0.0.2"))  # a stranger cannot lock her out
    clock.now += WINDOW + 1
    assert accounts.who(accounts.sign_in("ann", PASSWORD, "10.0.0.1"))


def test_guessing_at_once_is_no_way_round(accounts):
    make(accounts)
    outcomes: list[str] = []

    def guess() -> None:
        try:
            accounts.sign_in("ann", "a wrong guess", "10.0.0.1")
        except InputError as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=guess) for _ in range(TRIES + 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("TooMany") == 6


def test_a_forgotten_user_leaves_votes_but_no_name(accounts, store):
    user = make(accounts, admin=True)
    token = accounts.sign_in("ann", PASSWORD)
    with pytest.raises(InputError):
        accounts.sign_in("Ann", "wrong wrong wrong")
    store.change_user(user, settings={"theme": "dark"})
    store.forget_user(user)
    gone = store.user(user)
    assert (gone.name, gone.active, gone.admin, gone.settings) == (f"deleted-{user}", False, False, {})
    assert accounts.who(token) is None
    assert "ann" not in " ".join(str(event.about).lower() for event in store.audit())
    assert accounts.accept(accounts.invite(), "ann", PASSWORD) != user


def test_what_was_forgotten_is_not_in_the_file(tmp_path):
    with Store.open(tmp_path / "s.db") as store:
        user = make(Accounts(store), "Zanzibar Ann")
        store.forget_user(user)
        assert store.user(user).name == f"deleted-{user}"
        with store.reading() as db:
            assert db.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 60_000  # as before
        kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert b"deleted-" in kept
        assert b"Zanzibar" not in kept
        assert b"argon2id" not in kept


def test_anybody_can_be_forgotten_whatever_others_call_themselves(accounts, store):
    user = make(accounts)
    make(accounts, f"deleted-{user}")
    store.forget_user(user)
    assert store.user(user).name.startswith(f"deleted-{user}-")
    store.forget_user(user)  # again changes nothing that matters
    assert len({one.name for one in store.users()}) == 2
