"""What a runner is asked for and what it answers: the records of both, and their readers."""

from sepdeploy.jobs.answers import Answer as Answer
from sepdeploy.jobs.answers import Clocked as Clocked
from sepdeploy.jobs.answers import Job as Job
from sepdeploy.jobs.answers import NoAnswer as NoAnswer
from sepdeploy.jobs.answers import Refused as Refused
from sepdeploy.jobs.answers import Stamp as Stamp
from sepdeploy.jobs.answers import Timed as Timed
from sepdeploy.jobs.answers import read_answer as read_answer
from sepdeploy.jobs.arrays import MOST_ARRAY as MOST_ARRAY
from sepdeploy.jobs.arrays import Labelled as Labelled
from sepdeploy.jobs.arrays import logits_job as logits_job
from sepdeploy.jobs.arrays import read_logits as read_logits
from sepdeploy.jobs.arrays import read_outputs as read_outputs
from sepdeploy.jobs.arrays import read_search as read_search
from sepdeploy.jobs.arrays import search_job as search_job
