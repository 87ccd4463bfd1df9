"""Is a prepared root sound? ``gen3r check ROOT``.

``checks.py`` looks at one scene, ``reprojection.py`` at whether its depth fits its poses, ``sets.py`` at all scenes and
the lists that name them, ``report.py`` writes down what was found.
"""
