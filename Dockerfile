# Stage 1 installs the pinned dependencies, stage 2 runs them as an ordinary user. Which build of torch comes in (CPU or
# CUDA) is up to the package index that pip is set up with: the lock file names the version only.
FROM python:3.11.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /srv/grail
COPY requirements.lock ./
RUN python -m venv /venv && /venv/bin/pip install --quiet -r requirements.lock
COPY pyproject.toml README.md alembic.ini ./
COPY app app
COPY worker worker
COPY grail grail
COPY cli cli
COPY migrations migrations
RUN /venv/bin/pip install --quiet --no-deps --no-build-isolation -e . && /venv/bin/python -m compileall -q app worker grail cli

FROM python:3.11.13-slim-bookworm
RUN groupadd --gid 10001 grail && useradd --uid 10001 --gid grail --no-create-home --shell /usr/sbin/nologin grail \
    && install --directory --owner=grail --group=grail /data /models
COPY --from=build /venv /venv
COPY --from=build /srv/grail /srv/grail
ENV PATH=/venv/bin:$PATH HOME=/tmp HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 GRAIL_DATA_DIR=/data
USER 10001:10001
WORKDIR /srv/grail
EXPOSE 8000
ENTRYPOINT ["grail"]
CMD ["api", "--host", "0.0.0.0"]
