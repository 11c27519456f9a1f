"""The witness service: checks drafts, makes statements of them, and has these signed.

    checks       does a draft hold together, and what would be stored: pure
    patches      JSON Patches, given and made: pure
    statements   commitment and statement of a draft that passed: pure
    signing      one signature over the statements of many calls
    witness      a call from end to end, without keeping the event loop to itself

It has no storage: what it signs is kept by the ledger or by nobody.
"""
