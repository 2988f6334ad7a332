"""The Python object that owns kept translations."""
from ringlet.core.state cimport u32
from ringlet.translate.kept cimport Kept
from ringlet.translate.learn_table cimport LearnTables

cdef class KeptTranslations:
    cdef Kept k
    cdef LearnTables tables
    cdef u32 loaded      # arena offset of the end of earlier runs' records
