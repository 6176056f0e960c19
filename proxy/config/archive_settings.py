"""`[archive]`: the store of layers that only archived images use. Part of `settings`."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.config.setting import BUCKET, KEY_PREFIX, one_of, setting

READ_AT_ONCE = ("STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY")
"""S3's storage classes whose objects can be read without a restore request."""


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    path: str = setting("", "a folder, such as one on a slower disk; without path and bucket the class is a mark")
    bucket: str = setting("", "or a bucket of the S3 store of [storage], reached as that is", BUCKET)
    prefix: str = setting("", "what every key in that bucket begins with", KEY_PREFIX)
    storage_class: str = setting(
        "",
        "S3's class of the objects there, one whose objects are read at once; empty: none is sent",
        one_of("", *READ_AT_ONCE),
    )

    @property
    def names_a_place(self) -> bool:
        return bool(self.path or self.bucket)
