"""The one thing ``pyproject.toml`` has no settled way to say: a C kernel that may be missing.

Where there is no C compiler the installation goes on without it (``adapterdb/kernels/native.py``).
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "adapterdb.kernels._native",  # loaded with ctypes: not a module, and without Python.h
            ["adapterdb/kernels/native.c"],
            libraries=["m"],
            extra_compile_args=["-O3", "-g0", "-Wno-psabi"],
            optional=True,
        )
    ]
)
