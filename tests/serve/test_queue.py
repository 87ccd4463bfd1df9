"""The queue and the store, without processes: what holds whoever dies when."""

import threading

import pytest

from gen3r_jax.errors import UserError
from gen3r_jax.serve.options import Keep, ServeOptions, options_of
from gen3r_jax.serve.queue import Conflict, Full, Queue
from gen3r_jax.serve.store import Store, claimed_store, summary


@pytest.fixture
def queue(tmp_path):
    return Queue(tmp_path / "queue.sqlite")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def add(queue, *ids, kind="generate"):
    return [queue.add(id, kind, {"fields": {"prompt": id}}, id) for id in ids]


def finished(store, id, text="{}"):
    """A scene in the store, done."""
    add(store.queue, id)
    job = store.queue.claim(0)
    store.scene(id).mkdir()
    (store.scene(id) / "run.json").write_text(text)
    store.inputs(id).mkdir()
    store.queue.end(job, "done", size=store.size(id))


def test_jobs_are_begun_in_the_order_of_acceptance_previews_before_them(queue):
    add(queue, "a", "b")
    add(queue, "look", kind="preview")
    assert queue.ahead(queue.get("b")) == 1
    assert [queue.claim(0).id for _ in range(3)] == ["look", "a", "b"]
    assert queue.claim(0) is None


def test_the_same_request_under_a_key_is_one_job(queue):
    first = queue.add("a", "generate", {}, "digest", key="k")
    assert queue.add("b", "generate", {}, "digest", key="k").id == first.id == "a"
    with pytest.raises(Conflict, match="another request"):
        queue.add("c", "generate", {}, "other", key="k")
    assert queue.ids() == {"a"}


def test_a_full_queue_refuses(queue):
    add(queue, "a", "b")
    with pytest.raises(Full, match="2 jobs wait"):
        queue.add("c", "generate", {}, "", most=2)
    queue.claim(0)
    queue.add("c", "generate", {}, "", most=2)


def test_many_workers_take_every_job_once(tmp_path):
    queue, taken = Queue(tmp_path / "queue.sqlite"), []
    add(queue, *(f"job{number}" for number in range(40)))

    def work(slot):
        while job := queue.claim(slot):
            taken.append(job.id)
            assert queue.end(job, "done")

    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(taken) == sorted(queue.ids())
    assert queue.ends()["done"][0] == 40


def test_a_job_ends_once_and_only_by_who_has_it(queue):
    add(queue, "a")
    job = queue.claim(0)
    queue.recover(0)
    again = queue.claim(1)
    assert not queue.end(job, "failed", "late")  # of the worker that was taken for dead
    assert not queue.tell(job, 0.5, "Sampling", None)
    assert queue.end(again, "done")
    assert not queue.end(again, "failed")
    assert (queue.get("a").status, queue.ends()["done"][0], queue.ends()["failed"][0]) == ("done", 1, 0)


def test_a_job_whose_worker_dies_is_tried_once_more_and_then_has_failed(queue):
    add(queue, "a")
    queue.claim(0)
    queue.recover(0)
    assert queue.get("a").status == "queued"
    queue.claim(0)
    queue.recover(0)
    job = queue.get("a")
    assert (job.status, job.error) == ("failed", "its worker died 2 times while it made this")


def test_only_jobs_of_the_dead_worker_are_put_back(queue):
    add(queue, "a", "b")
    queue.claim(0), queue.claim(1)
    queue.recover(1)
    assert [queue.get(id).status for id in "ab"] == ["running", "queued"]
    queue.recover(0, others=True)
    assert queue.get("a").status == "queued"


def test_a_job_that_is_given_back_was_not_begun(queue):
    add(queue, "a")
    for _ in range(5):
        queue.release(queue.claim(0))
    assert (queue.get("a").status, queue.get("a").attempts) == ("queued", 0)


def test_cancelling(queue):
    add(queue, "a", "b", "c")
    assert queue.cancel("b").status == "cancelled"
    running = queue.claim(0)
    assert queue.tell(running, 0.1, "Sampling", 3.0)
    assert queue.cancel("a").status == "running"
    assert not queue.tell(running, 0.2, "Sampling", 2.0)  # the worker is to stop
    queue.recover(0)  # and if it dies before it does
    assert queue.get("a").status == "cancelled"
    assert queue.claim(0).id == "c"
    assert not queue.remove("c") and queue.remove("a")
    assert queue.get("a") is None


def test_pages_go_from_the_newest_to_the_oldest(queue):
    add(queue, *"abcde")
    first = queue.page(2)
    assert [job.id for job in first] == ["e", "d"]
    assert [job.id for job in queue.page(9, first[-1].number)] == ["c", "b", "a"]


def test_another_version_of_the_queue_is_refused(tmp_path):
    Queue(tmp_path / "queue.sqlite")._database.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="version 99"):
        Queue(tmp_path / "queue.sqlite")


def test_the_oldest_scenes_go_first(store):
    for id in "abcd":
        finished(store, id, "x" * 10)
    store.trim(Keep(scenes=3))
    assert store.queue.ids() == set("bcd")
    store.trim(Keep(bytes=20))
    assert store.queue.ids() == set("cd") and not store.scene("b").exists() and not store.inputs("b").exists()
    store.trim(Keep(days=1))
    assert store.queue.ids() == set("cd")
    store.trim(Keep(days=1e-9))
    assert store.queue.ids() == set()


@pytest.mark.parametrize(
    "texts, keep",
    [([], Keep()), (["5"], Keep(scenes=5)), (["30d", "1.5GB"], Keep(days=30.0, bytes=1_500_000_000))],
)
def test_bounds_of_what_is_kept(texts, keep):
    assert Keep.parse(texts) == keep


@pytest.mark.parametrize("text", ["", "0", "-3", "1.5", "3 d", "7XB", "d"])
def test_what_is_no_bound(text):
    with pytest.raises(UserError, match="is no bound"):
        Keep.parse([text])


def test_a_store_is_tidied_and_finds_scenes_that_it_does_not_know(store):
    finished(store, "known")
    for place in (store.inputs("orphan"), store.incoming / "half", store.scene("brought"), store.scene("half")):
        place.mkdir()
    (store.scene("brought") / "run.json").write_text('{"options": {"prompt": "x"}}')
    (store.scene("brought") / "prompts.txt").write_text("a red table\n")
    store.tidy()
    assert store.queue.ids() == {"known", "brought"}
    assert summary(store, store.queue.get("brought"))["prompt"] == "a red table"
    assert not store.inputs("orphan").exists() and store.inputs("known").exists() and not list(store.incoming.iterdir())


def test_what_a_dead_worker_left_is_swept_once_its_job_has_ended(store):
    add(store.queue, "failed", "waits")
    job = store.queue.claim(0)
    for id in ("failed", "waits"):
        (store.root / "scenes" / f".{id}.partial").mkdir()
        (store.root / "scenes" / f".{id}.lock").touch()
    store.queue.end(job, "failed")
    store.sweep()
    assert {path.name for path in (store.root / "scenes").iterdir()} == {".waits.partial", ".waits.lock"}


def test_files_of_a_scene_are_only_its_own(store, tmp_path):
    finished(store, "a")
    (tmp_path / "secret").write_text("secret")
    (store.scene("a") / "link").symlink_to(tmp_path / "secret")
    (store.scene("a") / ".hidden").write_text("")
    assert list(store.files("a")) == ["run.json"]
    for id in ("..", "../a", "a/b", ".x", "", "a\0", "a" * 101):
        with pytest.raises(UserError, match="no name"):
            store.scene(id)


def test_a_folder_of_something_else_is_no_store(tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="did not write"), claimed_store(tmp_path):
        pass
    with claimed_store(tmp_path / "new"), pytest.raises(UserError, match="in use"), claimed_store(tmp_path / "new"):
        pass


def test_options_reach_the_children_as_they_were(tmp_path):
    options = ServeOptions("nano", "store", token="x" * 16, names=("a", "b"), keep=Keep(days=2.0))
    assert options_of(options.document()) == options


@pytest.mark.parametrize("options", [{"host": "0.0.0.0"}, {"host": "::"}, {"host": "10.0.0.1"}, {"token": "short"}])
def test_others_are_let_in_only_with_a_token(options):
    with pytest.raises(UserError, match="token"):
        ServeOptions("nano", "store", **options)
