"""FIPS mode: OpenSSL's FIPS provider loaded, asserted and tested, and an allow-list of ours.

`PROVLEDGER_FIPS=1` asks for it. What happens then, in order:

1. `launch` prepares a private copy of the provider for each libcrypto of the process and executes
   the service again with OpenSSL pointed at them (`module` finds and copies);
2. `boot`, in the new process, loads one libcrypto after the other (`libcrypto`), asserts in each
   that the provider answers and that MD5 is refused (`assertions`), runs known-answer tests of
   every primitive we use (`selftest`), and only then imports the service;
3. `policy` holds the allow-list and the error state from then on; `watch` ends the service when a
   test fails later; `keygen` makes local keys inside the module.

Wherever one of these fails the service does not start, or stops: nothing here falls back to
cryptography outside the provider. None of it is a validation: docs/fips.md says what it is worth.

Nothing is imported here, so that `launch` and `boot` start without touching any cryptography.
"""
