"""``gen3r serve``: scenes made in a browser or by HTTP, and kept.

Three kinds of processes share one folder, the store. ``supervisor`` listens and starts the others again when they die;
``web`` accepts jobs and shows what there is; a ``worker`` a device makes one scene after the other. All they have in
common is the queue, an SQLite file.
"""
