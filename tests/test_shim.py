"""What the shim refuses while it is told to, and what it lets through."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch import run_job
from shim import build, is_local, unavailable


@pytest.mark.parametrize("size", [1, 3])
def test_communication_refused(mpi_jobs: None, tmp_path: Path, size: int) -> None:
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    for rank, found in enumerate(run_job(size, "refused.py", build(tmp_path))):
        assert found["exchanged"] == [(rank - 1) % size] * 2, "before and after it"
        assert found["before"] == {}
        assert found["one"] is True, "no MPI exception of the class ERR_OTHER"
        assert sum(found["counted_one"].values()) == 1
        assert found["errors"] == [True] * 7
        # mpi4py may call the form with large counts, MPI_Sendrecv_c.
        counted = {name.removesuffix("_c"): count for name, count in found["counted"].items()}
        assert counted == {
            "MPI_Sendrecv": 1,
            "MPI_Barrier": 2,
            "MPI_Iallreduce": 1,
            "MPI_Comm_dup": 1,
            "MPI_Irecv": 1,
            "MPI_Iprobe": 1,
            "MPI_Win_create": 1,
        }
        assert found["local"] == [rank, size, size, True, [0, 1, 2, 3, 8, 9, 10, 11]]


@pytest.mark.parametrize(
    "name",
    [
        *("MPI_Send", "MPI_Send_c", "MPI_Isend", "MPI_Send_init", "MPI_Start", "MPI_Sendrecv_replace_c", "MPI_Psend_init"),
        *("MPI_Probe", "MPI_Iprobe", "MPI_Mprobe", "MPI_Improbe", "MPI_Mrecv", "MPI_Imrecv_c"),
        *("MPI_Bcast", "MPI_Ibcast_c", "MPI_Bcast_init", "MPI_Alltoallw_init_c", "MPI_Reduce", "MPI_Reduce_scatter_block"),
        *("MPI_Neighbor_allgather", "MPI_Ineighbor_alltoallw_c", "MPI_Barrier", "MPI_Ibarrier"),
        *("MPI_Put", "MPI_Get", "MPI_Get_c", "MPI_Get_accumulate", "MPI_Win_fence", "MPI_Win_allocate_c", "MPI_File_open"),
        *("MPI_File_iwrite_at_all_c", "MPI_File_delete", "MPI_Register_datarep"),
        *("MPI_Comm_dup", "MPI_Comm_idup_with_info", "MPI_Comm_split", "MPI_Comm_split_type", "MPI_Comm_create_group"),
        *("MPI_Comm_free", "MPI_Comm_disconnect", "MPI_Intercomm_create", "MPI_Intercomm_merge", "MPI_Cart_create"),
        *("MPI_Comm_spawn", "MPI_Comm_accept", "MPI_Comm_join", "MPI_Open_port", "MPI_Publish_name", "MPI_Lookup_name"),
        *("MPI_Session_init", "MPIX_Comm_agree", "MPI_A_function_of_tomorrow"),
    ],
)
def test_is_local_for_communication(name: str) -> None:
    assert not is_local(name)


@pytest.mark.parametrize(
    "name",
    [
        *("MPI_Type_vector", "MPI_Type_create_struct_c", "MPI_Type_commit", "MPI_Pack", "MPI_Pack_c", "MPI_Unpack_external"),
        *("MPI_Op_create_c", "MPI_Reduce_local", "MPI_Reduce_local_c", "MPI_Group_incl", "MPI_Status_set_elements"),
        *("MPI_Comm_rank", "MPI_Comm_size", "MPI_Comm_get_attr", "MPI_Comm_get_name", "MPI_Comm_create_keyval"),
        *("MPI_Get_address", "MPI_Get_count_c", "MPI_Get_processor_name", "MPI_Wtime", "MPI_Initialized", "MPI_Finalize"),
        *("MPI_Test", "MPI_Waitall", "MPI_Request_free", "MPI_Grequest_start", "MPI_Alloc_mem", "MPI_Abort"),
    ],
)
def test_is_local_for_local_functions(name: str) -> None:
    assert is_local(name)
