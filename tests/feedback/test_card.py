"""What the card of an export says of a whole store, of which the export is a part."""

import pytest

from tether.feedback.asked import gather
from tether.feedback.card import facts_about
from tether.feedback.records import Answer, NewItem, NewPrompt, NewResponse, Query
from tether.feedback.store import Store

NUM = 100


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two projects by one guideline. In the first, of each pair the better response is the first one of the file.

    Two annotators prefer it to the other, but for every tenth pair, of which each has their own.
    """
    with Store.open(tmp_path_factory.mktemp("card") / "s.db") as opened:
        project, other = opened.add_project("polite"), opened.add_project("secret client")
        guideline = opened.add_guideline("be kind", project)
        assert opened.add_guideline("be kind", other) == guideline
        prompts = opened.add_prompts([NewPrompt(f"prompt {i}") for i in range(NUM)])
        ids = opened.add_responses([NewResponse(p, f"{text} {p}") for p in prompts for text in ("good", "bad")])
        opened.add_items([NewItem(ids[i : i + 2], 2, project=project) for i in range(0, 2 * NUM, 2)])
        good = set(ids[::2])
        for nth, name in enumerate(("ann", "bob")):
            answers = []
            for one in opened.claim_many(opened.add_user(name), NUM, project=project):
                slips = min(r.id for r in one.responses) // 2 % 10 == nth
                ranking = {r.id: int((r.id in good) == slips) for r in one.responses}
                answers.append(Answer(one.id, f"{name} {one.id}", guideline, ranking))
            opened.submit_many(answers)
        yield opened


def test_the_order_of_a_file_takes_nothing_from_agreement(store: Store):
    """They say the same of 80 pairs of 100. By the file's order 90 % of votes are "the first": α = 1 - .2 / .18 < 0."""
    with store.reading() as db:
        facts = facts_about(db, gather(db, Query()), "salt")
    assert facts.agreement.estimate == pytest.approx(0.8)
    assert facts.alpha.estimate == pytest.approx(1 - 0.2 / 0.5, abs=0.05)


def test_a_guideline_is_said_to_be_of_no_project_but_those_exported(store: Store):
    with store.reading() as db:
        (guideline,) = facts_about(db, gather(db, Query(projects=(2,))), "salt").guidelines
    assert guideline.versions == "polite, version 1"
